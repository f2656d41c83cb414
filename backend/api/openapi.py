"""What the OpenAPI document says beyond the routes' signatures: errors, examples, tasks' results.

FastAPI writes the document from each route's declarations. `responses` of a route has every error
that the route can answer, with an example in the words of the error itself.
"""

from __future__ import annotations

import inspect
from http import HTTPStatus
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from fastapi import APIRouter, FastAPI
from pydantic import BaseModel, Field, RootModel, create_model
from pydantic.errors import PydanticUserError
from pydantic_core import to_json

from backend.api.limits import ENCODED, TOO_LARGE
from backend.api.problems import DETAILS, OUR_FAULT, PROBLEM, document, summary
from backend.api.route import JSON, Route, unknown_parameter
from backend.errors import StoreUnavailable, TooManyWaiting
from backend.schemas import (
    EXAMPLE_ID,
    Answer,
    InvalidProblem,
    Problem,
    TaskFailed,
    TaskId,
    TaskUnfinished,
)
from backend.states import FAILURE, STARTED, SUCCESS, State
from backend.tasks.registry import Task, registered

if TYPE_CHECKING:
    from collections.abc import Mapping

Responses = dict[int | str, dict[str, Any]]


def header(description: str, kind: str, example: object) -> dict[str, Any]:
    """Return the description of a header that an answer always has."""
    schema = {"type": kind, "examples": [example]}
    return {"description": description, "required": True, "schema": schema}


def _error(status: int, description: str, detail: str) -> Responses:
    example = document(status, detail)
    return {
        status: {
            "model": Problem,
            "description": description,
            "content": {JSON: {"example": example}},
        }
    }


def _retry_later_error(status: int, description: str, detail: str, seconds: int) -> Responses:
    """Return the description of an error that says when to try again."""
    documented = _error(status, description, detail)
    retry_after = header("Seconds until you try again", "integer", seconds)
    documented[status]["headers"] = {"Retry-After": retry_after}
    return documented


def _invalid(description: str) -> Responses:
    """Return the description of 422; its example is made for each route by `install`."""
    return {422: {"model": InvalidProblem, "description": description}}


# What every route can answer.
ERRORS = {
    **_error(405, "The path does not take the request's method", DETAILS[405]),
    **_invalid("The request is not valid"),
    **_error(500, "Our fault; the log has it", OUR_FAULT),
}
ERRORS[405]["headers"] = {"Allow": header("The methods of the path", "string", "GET, HEAD, POST")}
NOT_FOUND = _error(404, "No task has this id", "There is no task with this id.")
BODY_REFUSED = {
    **_error(413, "The body is over 1 MiB", TOO_LARGE),
    **_error(415, "The body is compressed", ENCODED),
}
SUBMISSION_REFUSED = {
    **BODY_REFUSED,
    **_invalid("The request is not valid, or its Idempotency-Key came with another one"),
    **_retry_later_error(
        429, "More tasks wait than MAX_WAITING allows", str(TooManyWaiting(100_000, 30)), 30
    ),
}
STORE_AWAY = _retry_later_error(
    503, "PostgreSQL is away or stores nothing", str(StoreUnavailable()), 2
)


def router_of(
    tag: str, responses: Responses | None = None, route_class: type[Route] = Route
) -> APIRouter:
    """Return a router; its routes' operations are called as their functions are."""
    return APIRouter(
        tags=[tag],
        responses={**ERRORS, **(responses or {})},
        route_class=route_class,
        generate_unique_id_function=attrgetter("name"),
    )


def install(app: FastAPI) -> None:
    """Correct the document of the app.

    FastAPI gives errors the content type of the answer, and takes nulls out of examples.
    """
    described = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            paths = described()["paths"]
            for path in paths.values():
                for operation in path.values():
                    _correct(operation)
            answer = paths["/tasks/{task_id}"]["get"]["responses"]["200"]
            answer["content"][JSON]["examples"] = _state_examples()
        return described()

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's manual does


def _correct(operation: dict[str, Any]) -> None:
    parameters = operation.get("parameters", ())
    known = [parameter["name"] for parameter in parameters if parameter["in"] == "query"]
    errors = [{"detail": unknown_parameter(known), "pointer": "?colour"}]
    responses = operation["responses"]
    responses["422"]["content"][JSON]["example"] = document(422, summary(errors), errors)
    for status in sorted(responses):
        response = responses[status] = responses.pop(status)
        if int(status) >= HTTPStatus.BAD_REQUEST:
            response["content"] = {PROBLEM: response["content"][JSON]}


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
    """Return what the document says of a task: its docstring, and its result."""
    result = f"Its `result` in `GET /tasks/{{task_id}}` is a `{task.result.__name__}`"
    value = example(task)
    if value is not None:
        text = to_json(value, indent=2).decode()
        result += f", such as:\n\n```json\n{text}\n```"
    return "\n\n".join(filter(None, (inspect.getdoc(task.function), result)))


def _documented(model: type[BaseModel]) -> Any:  # noqa: ANN401 - a type
    """Return the type that documents a task's value: Any where JSON Schema cannot say it."""
    try:
        model.model_json_schema(mode="serialization")
    except PydanticUserError:
        return Any
    return model


def task_state() -> Any:  # noqa: ANN401 - a type
    """Return the model of GET /tasks/{id}, with the results of all tasks."""
    models = {task.result for task in registered().values()}
    # Those with most fields first: a generated client takes the first that fits.
    ordered = sorted(models, key=lambda model: (-len(model.model_fields), model.__name__))
    examples = [found for found in map(example, registered().values()) if found is not None]
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


def _state_examples() -> Mapping[str, Any]:
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


TaskState: Any = task_state()
