"""The Celery application and its configuration.

Celery only brings messages to processes and watches these processes. The ledger has states, retries
and times. Loaded by API, relay, worker and Flower, and by `celery -A backend`.
"""

from __future__ import annotations

import ssl
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from celery import Celery
from celery.signals import setup_logging
from kombu.utils.url import parse_ssl_cert_reqs

from backend.broker.queues import on_broker, prefixed, queue
from backend.db.records import SHORT_TASKS, TASKS
from backend.options import HIGHEST, PRIORITY
from backend.settings import settings
from backend.telemetry.logs import set_up_logging

# How long the broker may take for each step of connecting.
CONNECT_TIMEOUT = 3.0
# Longer than any command waits on purpose: BRPOP waits a second.
REDIS_TIMEOUT = 3.0
_REDIS_OPTIONS: Final = {
    # One list for each priority.
    "priority_steps": list(range(HIGHEST + 1)),
    "socket_connect_timeout": REDIS_TIMEOUT,
    "socket_timeout": REDIS_TIMEOUT,
    "socket_keepalive": True,
    # How long a consumer's connection may be silent, beyond that second, until it is checked.
    "health_check_interval": 5,
    **{f"{key}_key": prefixed(key) for key in ("unacked", "unacked_index", "unacked_mutex")},
}


def _amqp_tls(url: str) -> dict[str, Any]:
    """Return the TLS parameters of an amqps:// address for py-amqp; kombu does not convert them.

    Without `server_hostname` py-amqp would accept a certificate of any host.
    """
    given = {name.removeprefix("ssl_"): value for name, value in parse_qsl(urlsplit(url).query)}
    required = given.pop("cert_reqs", "required")
    if parse_ssl_cert_reqs(required) is ssl.CERT_NONE:
        return {**given, "cert_reqs": ssl.CERT_NONE}
    return {**given, "cert_reqs": parse_ssl_cert_reqs(required), "server_hostname": None}


def _processes() -> int:
    """Return how many processes, or threads, a worker has for tasks.

    One more than WORKER_CONCURRENCY if it consumes short tasks and others: tasks of other queues
    never have all of them, so that short tasks do not wait for long ones.
    """
    queues = settings().queues
    return settings().worker_concurrency + (SHORT_TASKS in queues and len(queues) > 1)


_POOLS: Final = {
    "processes": "backend.worker.parent.pool:Pool",
    "threads": "backend.worker.parent.threads:Threads",
}
_BROKER_URL: Final = settings().celery_broker_url
_AMQPS: Final = _BROKER_URL.startswith("amqps:")

_CONF: dict[str, Any] = {
    # Not `broker_url`: Celery prefers CELERY_BROKER_URL from the environment, which settings.py has
    # not checked.
    **dict.fromkeys(
        ["broker_read_url", "broker_write_url"],
        _BROKER_URL.partition("?")[0] if _AMQPS else _BROKER_URL,
    ),
    "broker_use_ssl": _amqp_tls(_BROKER_URL) if _AMQPS else False,
    "broker_transport_options": _REDIS_OPTIONS if _BROKER_URL.startswith("redis") else {},
    "task_queues": [queue(TASKS)],
    "task_default_queue": prefixed(TASKS),
    # Of messages that Flower and `celery call` send.
    "task_default_priority": on_broker(PRIORITY),
    # What `inspect`, `control` and Flower use. Celery derives more names from these.
    "control_exchange": prefixed("celery"),
    "event_exchange": prefixed("celeryev"),
    "event_queue_prefix": prefixed("celeryev"),
    # Retry connecting without limit: a worker survives every outage of the broker.
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    # RabbitMQ closes a channel that holds a message longer than its consumer_timeout.
    "broker_channel_error_retry": True,
    "broker_heartbeat": 10,
    "broker_connection_timeout": CONNECT_TIMEOUT,
    "accept_content": ["json"],
    "task_serializer": "json",
    "result_serializer": "json",
    # Copies of results are optional: dropped if Redis does not take them at once.
    "redis_socket_timeout": 1.0,
    "redis_socket_connect_timeout": 1.0,
    # Threads of tasks share it.
    "result_backend_thread_safe": True,
    "result_backend_transport_options": {"retry_policy": {"max_retries": 0}},
    "worker_prefetch_multiplier": 1,
    # Celery would lower it after a lost connection, and raise it again only for its own messages.
    "worker_enable_prefetch_count_reduction": False,
    "worker_concurrency": _processes(),
    "worker_max_tasks_per_child": settings().max_tasks_per_child,
    "worker_max_memory_per_child": (settings().max_memory_per_child or 0) * 1024 or None,  # KiB
    "worker_disable_rate_limits": True,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "worker_send_task_events": True,
    "worker_consumer": "backend.worker.parent.consumer:LedgerConsumer",
    "worker_pool": _POOLS[settings().worker_pool],
    # By name: only worker processes and the celery command load it.
    "include": ["backend.worker"],
}


def _backend_class() -> str:
    """Return our result backend's name in Celery's notation.

    As `backend_cls` it has priority over CELERY_RESULT_BACKEND in the environment, which has
    priority over all other configuration (celery.app.base.Celery._get_backend).
    """
    url = settings().celery_result_backend
    rpc = url.startswith("rpc")
    module, name = ("results", "RpcResults") if rpc else ("redis_results", "RedisResults")
    return f"backend.broker.{module}:{name}+{url}"


app = Celery("tasks-api")
app.backend_cls = _backend_class()
app.conf.update(_CONF)


@setup_logging.connect
def _keep_our_logging(**_: object) -> None:
    """Replace Celery's own logging, in workers and in its commands."""
    set_up_logging(settings().log_level, "worker")
