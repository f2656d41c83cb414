"""Checks of single settings: each returns the value, or raises ValueError.

The text of an InvalidSetting is shown to the user. urls.py checks addresses.
"""

from __future__ import annotations

import re
from ipaddress import ip_network

from backend.urls import InvalidSetting

# The pattern of names of tasks and queues.
NAME = r"[a-z][a-z0-9_]{0,99}"


def without_ipv6(host: str) -> str:
    """Return 127.0.0.1 for localhost, which may resolve to ::1 where IPv6 is off."""
    return "127.0.0.1" if host == "localhost" else host


def path_prefix(path: str) -> str:
    """Return the path as `/a/b`, "" for `/`. Raises ValueError for characters that URLs encode."""
    segments = path.strip("/").split("/")
    if segments == [""]:
        return ""
    # Flower puts its prefix into regular expressions.
    if not all(re.fullmatch(r"[A-Za-z0-9_~.-]+", each) and each.strip(".") for each in segments):
        raise ValueError
    return "/" + "/".join(segments)


# The first segments of the API's own paths. With the prefix `/tasks`, the path `/tasks` would be
# both the list and the root.
OWN_PATHS = frozenset(
    {"tasks", "messages", "health", "docs", "redoc", "openapi.json", "static-offline-docs"}
)


def unlike_own_paths(prefix: str) -> str:
    """Return the prefix. Raises ValueError if a path of the API begins with it."""
    if prefix and prefix.split("/")[1] in OWN_PATHS:
        raise ValueError
    return prefix


def networks(text: str) -> str:
    """Return comma-separated addresses and networks, `*` or "". Raises ValueError otherwise."""
    if text not in {"", "*"}:
        for each in text.split(","):
            ip_network(each.strip())
    return text


def queue_prefix(prefix: str) -> str:
    """Return a prefix with which all names are valid and differ from names without it.

    Raises ValueError for any other prefix.
    """
    allowed = re.fullmatch(r"[A-Za-z0-9_.-]{0,64}", prefix)
    # RabbitMQ reserves `amq.`. With `reply.`, our command exchange would have the name of another
    # installation's reply exchange. With `short_`, our `tasks` queue would have the name of the
    # other's `short_tasks`.
    if not allowed or prefix.startswith(("amq.", "reply.")) or prefix.endswith("short_"):
        raise ValueError
    return prefix


def task_modules(names: str) -> str:
    """Return comma-separated module names that include ours. Raises ValueError for other text."""
    modules = [each.strip() for each in names.split(",")]
    if not all(part.isidentifier() for each in modules for part in each.split(".")):
        raise ValueError
    if "backend.tasks" not in modules:
        raise InvalidSetting("backend.tasks has the tasks of POST /tasks/ and /tasks/slow")
    return names


def worker_queues(names: str) -> str:
    """Return comma-separated names of queues, without spaces. Raises ValueError for other text."""
    queues = [each.strip() for each in names.split(",")]
    if not all(re.fullmatch(NAME, each) for each in queues):
        raise ValueError
    return ",".join(queues)


def not_set_by_kubernetes(value: object) -> object:
    """Return the value. Raises InvalidSetting for an address, which Kubernetes sets as API_PORT."""
    if isinstance(value, str) and "://" in value:
        raise InvalidSetting(
            "Kubernetes sets it to an address for a Service of that name: set enableServiceLinks:"
            " false for the pod, or give the Service another name"
        )
    return value
