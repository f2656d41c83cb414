"""What a client asks of the history: which tasks, and from where."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

from fastapi import Query
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from backend.api.options import plus
from backend.db.history import END, Filter, Position
from backend.ids import is_task_id
from backend.options import Instant
from backend.registry import registered
from backend.states import State

if TYPE_CHECKING:
    from collections.abc import Collection

MOST_IDS = 10_000
EXAMPLE_CURSOR = "MTc5NTI3MDIwMDAwMDAwMC8wMTlhM2YwZThkM2I3Yjg4OGNlMmRkMDYyMzEyOGQyZA"


def _known_form(task_id: str) -> str:
    if not is_task_id(task_id):
        raise ValueError("must be a UUID in lower case")
    return task_id


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not have NUL")
    return text


def _position(cursor: object) -> object:
    """Return the position of a cursor; other values as they are. Raises ValueError."""
    if not isinstance(cursor, str):
        return cursor
    try:
        text = base64.urlsafe_b64decode(cursor.encode() + b"==").decode()
        time, task_id = re.fullmatch(r"(\d{1,18})/([0-9a-f]{32})", text).groups()  # type: ignore[union-attr]  # an AttributeError is caught
    except (ValueError, AttributeError):
        raise ValueError("must be `next` of an earlier answer") from None
    return Position(int(time), UUID(task_id))


def cursor(position: Position | None) -> str | None:
    """Return a position as clients get it, in `next`."""
    if position is None:
        return None
    text = f"{position.time}/{position.id.hex}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


TaskId = Annotated[str, AfterValidator(_known_form)]
Text = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_without_nul)]
Before = Annotated[Any, BeforeValidator(_position)]
Statuses = Annotated[list[State], Field(description="Any of these")]
Tags = Annotated[list[Text], Field(description="Any of these")]
Ids = Annotated[list[TaskId], Field(max_length=MOST_IDS, description="Any of these")]


class TaskFilter(BaseModel):
    """Which tasks; all fields that are given must fit."""

    model_config = ConfigDict(extra="forbid")

    status: Statuses = []
    tag: Tags = []
    name: Text | None = Field(None, examples=["slow"])
    queue: Text | None = Field(None, examples=["tasks"])
    error: Text | None = Field(
        None, examples=["ConnectionRefusedError"], description="The class of the last error"
    )
    ids: Ids | None = Field(None, examples=[["019a3f0e-7c1a-7d7e-9a53-0d8f2c7b1f55"]])
    created_after: Instant | None = Field(
        None, examples=["2026-11-20T14:30:00Z"], description="At this time or later"
    )
    created_before: Instant | None = Field(
        None, examples=["2026-11-21T14:30:00Z"], description="Earlier than this"
    )
    text: Text | None = Field(
        None, examples=['"duration": 1'], description="A part of the arguments' JSON"
    )

    def select(self, before: Position | None, statuses: Collection[State] = ()) -> Filter:
        """Return the filter of the query, from a position on.

        `statuses`: no other ones; empty for all.
        """
        wanted = self.status or list(statuses)
        if statuses:
            # A task never has the state "none".
            wanted = [each for each in wanted if each in statuses] or ["none"]  # type: ignore[list-item]
        return Filter(
            statuses=wanted,
            tags=self.tag,
            names=self._names(),
            error=self.error,
            ids=self.ids,
            created_after=self.created_after,
            created_before=self.created_before,
            text=self.text,
            before=before or END,
        )

    def _names(self) -> list[str] | None:
        """Return the names of tasks that fit `name` and `queue`; None for all."""
        if self.queue is None:
            return None if self.name is None else [self.name]
        names = [name for name, task in registered().items() if task.queue == self.queue]
        return names if self.name is None else [name for name in names if name == self.name]


async def in_query(  # noqa: PLR0913, PLR0917 - the parameters of the query
    status: Annotated[list[State], Query(description="Any of these")] = [],  # noqa: B006 - FastAPI's own way
    tag: Annotated[list[Text], Query(description="Any of these")] = [],  # noqa: B006 - the same
    ids: Annotated[list[TaskId], Query(description="Any of these")] = [],  # noqa: B006 - the same
    name: Text = None,  # type: ignore[assignment]  # absent
    queue: Text = None,  # type: ignore[assignment]  # the same
    error: Text = None,  # type: ignore[assignment]  # the same
    created_after: Annotated[Instant, BeforeValidator(plus)] = None,  # type: ignore[assignment]  # the same
    created_before: Annotated[Instant, BeforeValidator(plus)] = None,  # type: ignore[assignment]  # the same
    text: Text = None,  # type: ignore[assignment]  # the same
) -> TaskFilter:
    """Return the filter in the query of a request."""
    return TaskFilter(
        status=status,
        tag=tag,
        name=name,
        queue=queue,
        error=error,
        ids=ids or None,
        created_after=created_after,
        created_before=created_before,
        text=text,
    )
