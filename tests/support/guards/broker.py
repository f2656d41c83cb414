"""Guards of the broker's settings and messages, and of what is logged."""

from __future__ import annotations

from .guard import Guard

GUARDS = [
    Guard(
        "an outage is logged once for each reason",
        "backend/telemetry/outage.py",
        "            new = reason.kind not in self._since\n",
        "            new = True\n",
        "tests/unit/test_outage.py",
    ),
    Guard(
        "an outage ends only when every part that failed has succeeded",
        "backend/telemetry/outage.py",
        "            over = not self._failures\n",
        "            over = True\n",
        "tests/unit/test_outage.py",
    ),
    Guard(
        "8: a worker accepts only JSON",
        "backend/broker/app.py",
        '"accept_content": ["json"]',
        '"accept_content": ["json", "pickle"]',
        "tests/acceptance/test_malformed_messages.py",
    ),
    Guard(
        "a logged traceback shows no values",
        "backend/telemetry/logs.py",
        "structlog.processors.ExceptionRenderer(lambda exc_info: plain_traceback(exc_info[1])),",
        "structlog.processors.format_exc_info,",
        "tests/unit/test_telemetry.py",
    ),
    Guard(
        "8: the fields of a message are checked before Celery uses them",
        "backend/broker/wire.py",
        "    _check(fields)\n",
        "",
        "tests/acceptance/test_malformed_messages.py",
    ),
    Guard(
        "8: a message of an unknown task is delivered again later",
        "backend/broker/app.py",
        '    "worker_consumer": "backend.worker.parent.consumer:LedgerConsumer",\n',
        "",
        "tests/acceptance/test_contract_setups.py::test_a_task_unknown_to_an_old_worker_waits_for"
        "_a_newer_one",
    ),
    Guard(
        "task queues are classic in every virtual host",
        "backend/broker/queues.py",
        'arguments = {"x-max-priority": HIGHEST, **CLASSIC}',
        'arguments = {"x-max-priority": HIGHEST}',
        "tests/acceptance/test_queues.py",
    ),
    Guard(
        "chaos: a reply queue deleted before its consumer starts is declared again",
        "backend/broker/connection.py",
        "    *_broker.channel_errors,\n",
        "    *_broker.recoverable_channel_errors,\n",
        "tests/integration/test_reply_queues.py",
    ),
    Guard(
        "installations: installations with different prefixes share no queue",
        "backend/broker/queues.py",
        "    return settings().queue_prefix + name\n",
        "    return name\n",
        "tests/acceptance/test_two_installations.py::test_installations_with_different_prefixes"
        "_share_nothing",
    ),
    Guard(
        "installations: installations with different prefixes share no commands",
        "backend/broker/app.py",
        '    "control_exchange": prefixed("celery"),\n',
        "",
        "tests/acceptance/test_two_installations.py::test_installations_with_different_prefixes"
        "_share_nothing",
    ),
    Guard(
        "installations: installations with different prefixes share no events",
        "backend/broker/app.py",
        '    "event_exchange": prefixed("celeryev"),\n',
        "",
        "tests/acceptance/test_two_installations.py::test_installations_with_different_prefixes"
        "_share_nothing",
    ),
    Guard(
        "amqps:// verifies the name of the host",
        "backend/broker/app.py",
        ', "server_hostname": None}',
        "}",
        "tests/acceptance/test_broker_addresses.py::test_a_certificate_of_another_host_is_refused",
    ),
    Guard(
        "the length of a logged traceback is limited",
        "backend/telemetry/logs.py",
        "    if len(text) <= length:\n",
        "    if True:\n",
        "tests/unit/test_telemetry.py",
    ),
]
