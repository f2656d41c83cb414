"""The answers about tasks. Each has exactly these keys: clients compare whole answers."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from fastapi import Path
from pydantic import BaseModel, Field, RootModel, create_model
from pydantic.errors import PydanticUserError
from pydantic_core import to_json

from backend.api.body import Answer, dump_json
from backend.registry import registered
from backend.states import FAILURE, STARTED, SUCCESS, Listed, State
from backend.task import Task

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


EXAMPLE_ID = "019a3f0e-7c1a-7d7e-9a53-0d8f2c7b1f55"
TaskId = Annotated[str, Field(examples=[EXAMPLE_ID])]
TaskIdPath = Annotated[str, Path(description="As returned when the task was created")]


class TaskAccepted(Answer):
    """A task is on disk and will run."""

    task_id: TaskId
    status: Literal[State.PENDING]
    message: str = Field(examples=["Task enqueued successfully"])


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


def result_text(state: State, result: str | None, error: str | None) -> str:
    """Return `result` of an answer about a task as JSON text.

    `result`: the value of a task that has succeeded, as JSON text. `error`: why it has failed.
    """
    if state in {State.FAILURE, State.REVOKED}:
        return dump_json({"error": error or "No reason was given"})
    return result or "null"


def example(task: Task) -> Any:  # noqa: ANN401 - JSON
    """Return an example of a task's result; None if not every field has one."""
    fields = task.result.model_fields
    values = {
        field.serialization_alias or name: field.examples[0]
        for name, field in fields.items()
        if field.examples
    }
    if len(values) < len(fields):
        return None
    return values["root"] if issubclass(task.result, RootModel) else values


def describe(task: Task) -> str:
    """Return a task's description for the OpenAPI document: its docstring, and its result."""
    result = f"Its `result` in `GET /tasks/{{task_id}}` is a `{task.result.__name__}`"
    value = example(task)
    if value is not None:
        text = to_json(value, indent=2).decode()
        result += f", such as:\n\n```json\n{text}\n```"
    return "\n\n".join(filter(None, (inspect.getdoc(task.declared), result)))


def _documented(model: type[BaseModel]) -> Any:  # noqa: ANN401 - a type
    """Return the type that documents a task's value: Any if JSON Schema cannot describe it."""
    try:
        model.model_json_schema(mode="serialization")
    except PydanticUserError:
        return Any
    return model


def task_state(tasks: Collection[Task]) -> Any:  # noqa: ANN401 - a type
    """Return the model of GET /tasks/{id}, with the results of these tasks."""
    models = {task.result for task in tasks}
    # Models with the most fields first: a generated client takes the first one that fits.
    ordered = sorted(models, key=lambda model: (-len(model.model_fields), model.__name__))
    examples = [found for found in map(example, tasks) if found is not None]
    fields: Any = {
        "task_id": (TaskId, ...),
        "status": (Literal[State.SUCCESS], ...),
        "result": (
            Union[tuple(map(_documented, ordered))],  # noqa: UP007 - of as many as there are
            Field(description="The task's value; each task has its own model", examples=examples),
        ),
    }
    what = "A task that ended with a value."
    succeeded = create_model("TaskSucceeded", __base__=Answer, __doc__=what, **fields)
    state: Any = Annotated[
        Union[TaskUnfinished, succeeded, TaskFailed],  # noqa: UP007 - made when running
        Field(discriminator="status"),
    ]
    return create_model("TaskState", __base__=RootModel[state], __doc__="What is known of a task.")


def state_examples() -> Mapping[str, Any]:
    """Return examples of what GET /tasks/{id} answers."""
    examples = {
        task.name: _state(f"{task.name} succeeded", SUCCESS, example(task))
        for task in registered().values()
        if example(task) is not None
    }
    failed = {"error": "Database connection failed"}
    return {
        **examples,
        "unfinished": _state("not ended", STARTED, None),
        "failed": _state("failed", FAILURE, failed),
    }


def _state(summary: str, status: str, result: object) -> dict[str, Any]:
    value = {"task_id": EXAMPLE_ID, "status": status, "result": result}
    return {"summary": summary, "value": value}


TaskState: Any = task_state(registered().values())
