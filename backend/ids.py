"""The ids of tasks: UUIDs of version 7, which sort by the time at which they were made."""

from __future__ import annotations

import re
from typing import Final
from uuid import UUID

from uuid_utils import uuid7

# Greater ids are not ours: as UUIDs of version 7 they would be from the year 2100 or later.
OTHERS_FROM: Final = UUID(int=4_102_444_800_000 << 80)
_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def new_task_id() -> str:
    """Return a new id."""
    return str(uuid7())


def time_of(task_id: UUID) -> int | None:
    """Return the time in an id, in milliseconds since 1970; None if it is not one of ours."""
    is_version_7 = task_id.int >> 76 & 15 == 7  # noqa: PLR2004 - the version
    return task_id.int >> 80 if is_version_7 and task_id < OTHERS_FROM else None


def is_task_id(value: object) -> bool:
    """Return whether a value, which may come from any message, is a UUID as we write it."""
    return isinstance(value, str) and _UUID.fullmatch(value) is not None
