"""The bodies of requests and answers: exactly these keys, for clients compare them whole."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints


def _storable(text: str) -> str:
    """Refuse what PostgreSQL cannot store or nobody could read."""
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


class MessageIn(BaseModel):
    """A message to be stored."""

    content: Content


class MessageOut(BaseModel):
    """A stored message."""

    model_config = ConfigDict(from_attributes=True)

    id: int = Field(examples=[123])
    content: str = Field(examples=["Hello World"])
    created_at: datetime = Field(examples=["2025-10-16T14:30:00Z"])


class MessageList(BaseModel):
    """A page of messages, ids ascending."""

    messages: list[MessageOut]
    total: int = Field(description="How many messages there are in all", examples=[1])


class TaskAccepted(BaseModel):
    """A task is on disk and will run."""

    task_id: str = Field(examples=["019a3f0e-7c1a-7d7e-9a53-0d8f2c7b1f55"])
    status: Literal["PENDING"] = "PENDING"
    message: str = Field(examples=["Task enqueued successfully"])


class BatchItem(BaseModel):
    """A task of a batch."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field("insert_message", description="The task's name")
    arguments: Any = Field(
        description="What POST /tasks/{name} takes", examples=[{"content": "Hello World"}]
    )


class BatchEntry(BaseModel):
    """An accepted task of a batch."""

    task_id: str = Field(examples=["019a3f0e-7c1a-7d7e-9a53-0d8f2c7b1f55"])
    status: Literal["PENDING"] = "PENDING"


class BatchAccepted(BaseModel):
    """All tasks of a batch are on disk and will run; ids in the order of the request."""

    tasks: list[BatchEntry]
    total: int = Field(examples=[1])


class TaskSummary(BaseModel):
    """A task that has not ended."""

    task_id: str = Field(examples=["019a3f0e-7c1a-7d7e-9a53-0d8f2c7b1f55"])
    status: Literal["ACTIVE", "SCHEDULED", "RESERVED"]


class TaskList(BaseModel):
    """The tasks that have not ended, oldest first."""

    tasks: list[TaskSummary]
    total: int = Field(description="How many such tasks there are in all", examples=[1])


class TaskState(BaseModel):
    """What is known of one task."""

    task_id: str = Field(examples=["019a3f0e-7c1a-7d7e-9a53-0d8f2c7b1f55"])
    status: Literal["PENDING", "STARTED", "RETRY", "SUCCESS", "FAILURE", "REVOKED"]
    result: Any = Field(
        description="null until the end; the task's value on SUCCESS;"
        ' `{"error": "…"}` on FAILURE and REVOKED',
        examples=[{"id": 123, "content": "Hello World", "created_at": "2025-10-16T14:30:00Z"}],
    )


class Health(BaseModel):
    """The process serves."""

    status: Literal["healthy"] = "healthy"


class Readiness(BaseModel):
    """Whether tasks can be accepted, and what runs below its best."""

    status: Literal["ready"] = "ready"
    degraded: list[str] = Field(
        description="What is away though tasks are accepted",
        examples=[["no worker is running: tasks wait until one is"]],
    )


class Links(BaseModel):
    """Where to go from here."""

    docs: str = Field(examples=["/docs"])
    redoc: str = Field(examples=["/redoc"])
    flower: str = Field(examples=["http://localhost:5555"])


class FieldProblem(BaseModel):
    """One fault of a request."""

    detail: str = Field(examples=["must not be blank"])
    pointer: str = Field(examples=["#/content"])


class Problem(BaseModel):
    """An error, as RFC 9457 has it."""

    type: str = Field("about:blank", examples=["about:blank"])
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["There is no task with this id."])


class InvalidProblem(Problem):
    """A request that cannot be understood, with a line for each fault."""

    errors: list[FieldProblem]
