"""The queues on the broker, and the prefix of all names there."""

from __future__ import annotations

from functools import cache
from typing import Final

from kombu import Exchange, Queue

from backend.options import HIGHEST
from backend.settings import settings

# Every queue names its type. Otherwise the virtual host's default applies. It may be quorum, and a
# quorum queue refuses x-max-priority (406).
CLASSIC: Final = {"x-queue-type": "classic"}


def prefixed(name: str) -> str:
    """Return a name on the broker with QUEUE_PREFIX, by which installations can share a broker."""
    return settings().queue_prefix + name


def on_broker(priority: int) -> int:
    """Convert a task's priority to the broker's number, or back.

    For kombu on Redis the lists of a queue are served in order of their numbers, so 0 is the most
    urgent there.
    """
    return HIGHEST - priority if _ON_REDIS else priority


@cache
def queue(name: str) -> Queue:
    """Return a queue by its name without QUEUE_PREFIX."""
    full_name = prefixed(name)
    # A queue keeps the arguments that it was first declared with.
    arguments = {"x-max-priority": HIGHEST, **CLASSIC}
    return Queue(full_name, EXCHANGE, routing_key=full_name, queue_arguments=arguments)


_ON_REDIS: Final = settings().celery_broker_url.startswith("redis")
EXCHANGE: Final = Exchange(prefixed("tasks"), "direct")
