"""Adds to the OpenAPI document what signatures do not say: errors, examples, tasks' results.

FastAPI writes the document from each route's declarations. `responses` of a route has every error
that the route can answer. The example of an error has the text of the error itself.
"""

from __future__ import annotations

from http import HTTPStatus
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI

from backend.api.limits import ENCODED, TOO_LARGE
from backend.api.problems import (
    DETAILS,
    OUR_FAULT,
    PROBLEM,
    InvalidProblem,
    Problem,
    document,
    summary,
)
from backend.api.query import QUERY_HINT, unknown_parameter
from backend.api.route import JSON, Route
from backend.errors import OtherSite, StoreUnavailable, TooManyWaiting

if TYPE_CHECKING:
    from collections.abc import Mapping

Responses = dict[int | str, dict[str, Any]]


def header(description: str, kind: str, example: object) -> dict[str, Any]:
    """Return the description of a header that an answer always has."""
    schema = {"type": kind, "examples": [example]}
    return {"description": description, "required": True, "schema": schema}


def error(status: int, description: str, detail: str) -> Responses:
    """Return the description of an error; `detail` is its example."""
    example = document(status, detail)
    return {
        status: {
            "model": Problem,
            "description": description,
            "content": {JSON: {"example": example}},
        }
    }


def _retry_later(status: int, description: str, detail: str, seconds: int) -> Responses:
    """Return the description of an error that says when to try again."""
    documented = error(status, description, detail)
    retry_after = header("Seconds until you try again", "integer", seconds)
    documented[status]["headers"] = {"Retry-After": retry_after}
    return documented


def _invalid(description: str) -> Responses:
    """Return the description of 422; its example is made for each route by `install`."""
    return {422: {"model": InvalidProblem, "description": description}}


# What every route can answer.
ERRORS = {
    **error(405, "The path does not allow the request's method", DETAILS[405]),
    **_invalid("The request is not valid"),
    **error(500, "An error of the service; the log has its traceback", OUR_FAULT),
}
ERRORS[405]["headers"] = {"Allow": header("The methods of the path", "string", "GET, HEAD, POST")}
NO_SUCH_TASK = "There is no task with this id."
NOT_FOUND = error(404, "No task has this id", NO_SUCH_TASK)
OTHER_SITE = error(403, "A page of another web site has sent the request", str(OtherSite()))
BODY_REFUSED = {
    **error(413, "The body is over 1 MiB", TOO_LARGE),
    **error(415, "The body is compressed", ENCODED),
}
SUBMISSION_REFUSED = {
    **BODY_REFUSED,
    **_invalid("The request is not valid, or its Idempotency-Key was used for another request"),
    **_retry_later(
        429, "More tasks wait than MAX_WAITING allows", str(TooManyWaiting(100_000, 30)), 30
    ),
}
STORE_AWAY = _retry_later(
    503, "PostgreSQL cannot be reached or stores nothing", str(StoreUnavailable()), 2
)


def router_of(
    tag: str, responses: Responses | None = None, route_class: type[Route] = Route
) -> APIRouter:
    """Return a router. The ids of its operations are the names of the functions."""
    return APIRouter(
        tags=[tag],
        responses={**ERRORS, **(responses or {})},
        route_class=route_class,
        generate_unique_id_function=attrgetter("name"),
    )


def install(app: FastAPI, state_examples: Mapping[str, Any]) -> None:
    """Correct the document of the app; `state_examples` are answers of GET /tasks/{id}.

    FastAPI gives errors the content type of successful answers, and drops nulls from examples.
    """
    described = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            paths = described()["paths"]
            for path in paths.values():
                for operation in path.values():
                    _correct(operation)
            answer = paths["/tasks/{task_id}"]["get"]["responses"]["200"]
            answer["content"][JSON]["examples"] = state_examples
        return described()

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's manual does


def _correct(operation: dict[str, Any]) -> None:
    parameters = operation.get("parameters", ())
    known = [parameter["name"] for parameter in parameters if parameter["in"] == "query"]
    hint = operation.pop(QUERY_HINT, "")
    errors = [{"detail": unknown_parameter(known, hint), "pointer": "?colour"}]
    responses = operation["responses"]
    responses["422"]["content"][JSON]["example"] = document(422, summary(errors), errors)
    for status in sorted(responses):
        response = responses[status] = responses.pop(status)
        if int(status) >= HTTPStatus.BAD_REQUEST:
            response["content"] = {PROBLEM: response["content"][JSON]}
