"""The ids of tasks: UUIDs of version 7, which sort by the time at which they were made."""

from __future__ import annotations

import re
from typing import Final

from uuid_utils import uuid7

_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def new_task_id() -> str:
    """Return a new id."""
    return str(uuid7())


def is_task_id(value: object) -> bool:
    """Return whether a value, which may come from any message, is a UUID as we write it."""
    return isinstance(value, str) and _UUID.fullmatch(value) is not None
