"""What a client asks of the history: which tasks, and from where."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

from fastapi import Query
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from backend.api.options import restore_plus
from backend.api.route import ABSENT
from backend.db.history import Filter
from backend.db.position import NEWEST, Position
from backend.ids import is_task_id
from backend.options import MAX_TAGS, Instant
from backend.registry import registered
from backend.states import State

if TYPE_CHECKING:
    from collections.abc import Collection

MAX_IDS = 10_000
EXAMPLE_CURSOR = "MTc5NTI3MDIwMDAwMDAwMC8wMTlhM2YwZThkM2I3Yjg4OGNlMmRkMDYyMzEyOGQyZA"


def _known_form(task_id: str) -> str:
    if not is_task_id(task_id):
        raise ValueError("must be a UUID in lower case")
    return task_id


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not have NUL")
    return text


def decode_cursor(cursor: object) -> Position:
    """Return the position of a cursor. Raises ValueError."""
    refused = ValueError("must be `next` of an earlier answer")
    if isinstance(cursor, Position):
        return cursor
    try:
        text = base64.urlsafe_b64decode(f"{cursor}==".encode()).decode()
    except ValueError:
        raise refused from None
    match = re.fullmatch(r"(\d{1,18})/([0-9a-f]{32})", text, re.ASCII)
    if match is None or not isinstance(cursor, str):
        raise refused
    return Position(int(match[1]), UUID(match[2]))


def encode_cursor(position: Position | None) -> str | None:
    """Return a position as clients get it, in `next`."""
    if position is None:
        return None
    text = f"{position.time}/{position.id.hex}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


TaskId = Annotated[str, AfterValidator(_known_form)]
Text = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_without_nul)]
Before = Annotated[Any, BeforeValidator(decode_cursor)]
Statuses = Annotated[list[State], Field(min_length=1, description="Any of these")]
Tags = Annotated[
    list[Text], Field(min_length=1, max_length=MAX_TAGS, description="Any of these, up to ten")
]
Ids = Annotated[list[TaskId], Field(min_length=1, max_length=MAX_IDS, description="Any of these")]


class TaskFilter(BaseModel):
    """Which tasks; all fields that are given must fit."""

    model_config = ConfigDict(extra="forbid")

    # A field that is given cannot be null or empty: then it would fit every task.
    status: Statuses = ABSENT
    tag: Tags = ABSENT
    name: Text = Field(ABSENT, examples=["slow"])
    queue: Text = Field(ABSENT, examples=["tasks"])
    error: Text = Field(
        ABSENT,
        examples=["ConnectionRefusedError"],
        description="The class of the last error, of a task that has not succeeded",
    )
    ids: Ids = Field(ABSENT, examples=[["019a3f0e-7c1a-7d7e-9a53-0d8f2c7b1f55"]])
    created_after: Instant = Field(
        ABSENT, examples=["2026-11-20T14:30:00Z"], description="At this time or later"
    )
    created_before: Instant = Field(
        ABSENT, examples=["2026-11-21T14:30:00Z"], description="Earlier than this"
    )
    text: Text = Field(ABSENT, examples=['"duration":1'], description="A part of the arguments")

    def select(self, before: Position | None, allowed: Collection[State] | None = None) -> Filter:
        """Return the filter of the query, from a position on; `allowed`: the only states."""
        statuses: Collection[State] | None = self.status
        if allowed is not None:
            statuses = [state for state in self.status or allowed if state in allowed]
        return Filter(
            statuses=statuses,
            tags=self.tag,
            names=self._names(),
            error=self.error,
            ids=self.ids,
            created_after=self.created_after,
            created_before=self.created_before,
            text=self.text,
            before=before or NEWEST,
        )

    def _names(self) -> list[str] | None:
        """Return the names of tasks that fit `name` and `queue`; None for all."""
        if self.queue is None:
            return None if self.name is None else [self.name]
        names = [name for name, task in registered().items() if task.queue == self.queue]
        return names if self.name is None else [name for name in names if name == self.name]


async def in_query(  # noqa: PLR0913, PLR0917 - the parameters of the query
    status: Annotated[Statuses, Query()] = ABSENT,
    tag: Annotated[Tags, Query()] = ABSENT,
    ids: Annotated[Ids, Query()] = ABSENT,
    name: Text = ABSENT,
    queue: Text = ABSENT,
    error: Text = ABSENT,
    created_after: Annotated[Instant, BeforeValidator(restore_plus)] = ABSENT,
    created_before: Annotated[Instant, BeforeValidator(restore_plus)] = ABSENT,
    text: Text = ABSENT,
) -> TaskFilter:
    """Return the filter in the query of a request."""
    return TaskFilter.model_construct(
        status=status,
        tag=tag,
        name=name,
        queue=queue,
        error=error,
        ids=ids,
        created_after=created_after,
        created_before=created_before,
        text=text,
    )
