"""The task behind POST /tasks/: insert a message."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from backend.db import messages
from backend.task import Run, task


def _storable(text: str) -> str:
    """Return the text. Raises ValueError if PostgreSQL cannot store it or if it is blank."""
    if "\x00" in text:
        raise ValueError("must not contain the NUL character")
    if not text.strip():
        raise ValueError("must not be blank")
    return text


Content = Annotated[
    str,
    StringConstraints(min_length=1, max_length=10_000),
    AfterValidator(_storable),
    Field(
        description="The message's text",
        examples=["Hello World"],
        # The rule of `_storable`, for the document only: errors of `_storable` are clearer.
        json_schema_extra={"pattern": r"^[^\x00]*[^\s\x00][^\x00]*$"},
    ),
]


class MessageIn(BaseModel):
    """A message to be stored."""

    content: Content


class MessageOut(BaseModel):
    """A stored message."""

    model_config = ConfigDict(extra="forbid", from_attributes=True)

    id: int = Field(examples=[123])
    content: str = Field(examples=["Hello World"])
    created_at: datetime = Field(examples=["2025-10-16T14:30:00Z"])


@task(name="insert_message", time_limit=60, one_commit=True)
def insert_messages(args: list[MessageIn], runs: list[Run]) -> list[MessageOut]:
    """Insert a message into the database."""
    # One statement for all messages of a batch.
    inserted = messages.insert_many(
        runs[0].session, [each.content for each in args], [run.task_id for run in runs]
    )
    return [MessageOut.model_validate(message) for message in inserted]
