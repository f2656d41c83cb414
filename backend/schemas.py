"""The bodies of requests and answers: exactly these keys, for clients compare them whole."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from pydantic.json_schema import SkipJsonSchema

from backend.states import Listed, State


def _storable(text: str) -> str:
    """Refuse what PostgreSQL cannot store, and text without a visible character."""
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
        # What `_storable` refuses; its errors say more than one about a pattern.
        json_schema_extra={"pattern": r"^[^\x00]*[^\s\x00][^\x00]*$"},
    ),
]


class Answer(BaseModel):
    """An answer: it has exactly the keys of its model."""

    model_config = ConfigDict(extra="forbid")


class MessageIn(BaseModel):
    """A message to be stored."""

    content: Content


class MessageOut(Answer):
    """A stored message."""

    model_config = ConfigDict(from_attributes=True)

    id: int = Field(examples=[123])
    content: str = Field(examples=["Hello World"])
    created_at: datetime = Field(examples=["2025-10-16T14:30:00Z"])


class MessageList(Answer):
    """A page of messages, ids ascending."""

    messages: list[MessageOut]
    total: int = Field(description="How many messages there are in all", examples=[1])


EXAMPLE_ID = "019a3f0e-7c1a-7d7e-9a53-0d8f2c7b1f55"
TaskId = Annotated[str, Field(examples=[EXAMPLE_ID])]


class TaskAccepted(Answer):
    """A task is on disk and will run."""

    task_id: TaskId
    status: Literal[State.PENDING]
    message: str = Field(examples=["Task enqueued successfully"])


class BatchItem(BaseModel):
    """A task of a batch."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field("insert_message", description="The task's name")
    arguments: Any = Field(
        description="What POST /tasks/{name} takes", examples=[{"content": "Hello World"}]
    )


class BatchEntry(Answer):
    """An accepted task of a batch."""

    task_id: TaskId
    status: Literal[State.PENDING]


class BatchAccepted(Answer):
    """All tasks of a batch are on disk and will run; ids in the order of the request."""

    tasks: list[BatchEntry]
    total: int = Field(examples=[1])


class FieldProblem(BaseModel):
    """One fault of a request."""

    detail: str = Field(examples=["must not be blank"])
    pointer: str = Field(examples=["#/content"])


class BatchLine(Answer):
    """The answer to a line of NDJSON."""

    line: int = Field(description="The line's number, from 1", examples=[1])
    task_id: TaskId | SkipJsonSchema[None] = Field(
        None, description="Where the task is on disk, or may be (UNKNOWN)"
    )
    status: Literal[State.PENDING, "REFUSED", "UNKNOWN"] | SkipJsonSchema[None] = Field(
        None,
        description="PENDING: on disk. REFUSED: a good line that was not stored. UNKNOWN: the store"
        " went away, the task may have been stored. Absent where the line is not valid",
    )
    errors: list[FieldProblem] | SkipJsonSchema[None] = Field(
        None, description="What is wrong; absent with PENDING"
    )


class TaskSummary(Answer):
    """A task that has not ended."""

    task_id: TaskId
    status: Literal[Listed.ACTIVE, Listed.SCHEDULED, Listed.RESERVED]


class TaskList(Answer):
    """The tasks that have not ended, oldest first."""

    tasks: list[TaskSummary]
    total: int = Field(description="How many such tasks there are in all", examples=[1])


class ErrorResult(Answer):
    """Why a task did not succeed."""

    error: str = Field(examples=["Database connection failed"])


class TaskUnfinished(Answer):
    """A task that has not ended."""

    task_id: TaskId
    status: Literal[State.PENDING, State.STARTED, State.RETRY]
    # Always null. A type that is only null confuses clients: openapi-fetch leaves the field out.
    result: ErrorResult | None = Field(description="null until the task has ended", examples=[None])


class TaskFailed(Answer):
    """A task that ended without a value."""

    task_id: TaskId
    status: Literal[State.FAILURE, State.REVOKED]
    result: ErrorResult


class Health(Answer):
    """The process serves."""

    status: Literal["healthy"]


class Readiness(Answer):
    """Whether tasks can be accepted, and what runs below its best."""

    status: Literal["ready"]
    degraded: list[str] = Field(
        description="What is away though tasks are accepted",
        examples=[["no worker is running: tasks wait until one is"]],
    )


class Links(Answer):
    """Where to go from here."""

    docs: str = Field(examples=["/docs"])
    redoc: str = Field(examples=["/redoc"])
    flower: str = Field(examples=["http://localhost:5555"])


class Problem(BaseModel):
    """An error, as RFC 9457 has it."""

    type: str = Field(examples=["about:blank"])
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["There is no task with this id."])


class InvalidProblem(Problem):
    """A request that cannot be understood, with a line for each fault."""

    errors: list[FieldProblem]
