"""A task as a message."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def is_task_id(value: object) -> bool:
    """Return whether a value, which may come from any message, is a UUID as we write it."""
    return isinstance(value, str) and _UUID.fullmatch(value) is not None


class Delivery(NamedTuple):
    """A message taken apart: one attempt of one task.

    args, kwargs: a message of ours has one argument, the JSON text of all.
    external: another program sent it, such as Flower or `celery call`; it has no attempt number.
    callbacks: it asks for other tasks to be sent when this one has ended.
    """

    id: str
    attempt: int
    name: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    reply_to: str | None
    correlation_id: str | None
    queue: str
    external: bool = False
    callbacks: bool = False
