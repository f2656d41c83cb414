"""Answers every error as application/problem+json (RFC 9457)."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from backend.errors import HTTPError, Invalid, StoreError, StoreUnavailable
from backend.settings import settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PROBLEM = "application/problem+json"
RETRY_SOON = {"Retry-After": "2"}
OUR_FAULT = "Something went wrong on our side; it has been logged."


class FieldProblem(BaseModel):
    """One fault of a request."""

    detail: str = Field(examples=["must not be blank"])
    pointer: str = Field(examples=["#/content"])


class Problem(BaseModel):
    """An error in the format of RFC 9457."""

    type: str = Field(examples=["about:blank"])
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["There is no task with this id."])


class InvalidProblem(Problem):
    """A request that is not valid, with an entry for each fault."""

    errors: list[FieldProblem]


# Python 3.13 changed its phrases for these two; an answer must not depend on that.
_TITLES = {413: "Content Too Large", 422: "Unprocessable Entity"}
DETAILS = {
    404: "There is nothing at this path. See {root_path}/docs for all paths.",
    405: "This path does not take this method. See the Allow header.",
}


def problem(
    status: int,
    detail: str,
    headers: Mapping[str, str] | None = None,
    errors: Sequence[Mapping[str, str]] | None = None,
) -> JSONResponse:
    """Return a problem document; `errors` lists the faults of the request."""
    body = document(status, detail, errors)
    return JSONResponse(body, status, headers=dict(headers or {}), media_type=PROBLEM)


def document(
    status: int, detail: str, errors: Sequence[Mapping[str, str]] | None = None
) -> dict[str, Any]:
    """Return the body of an error."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": _TITLES.get(status) or HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    if errors is not None:
        body["errors"] = errors
    return body


def install(app: FastAPI) -> None:
    """Register a handler for every error of the app."""

    @app.exception_handler(HTTPError)
    async def ours(_request: Request, error: HTTPError) -> JSONResponse:
        errors = error.problems if isinstance(error, Invalid) else None
        return problem(error.status, error.detail, error.headers, errors)

    @app.exception_handler(StoreError)
    async def store(_request: Request, error: StoreError) -> JSONResponse:
        # Trying again cannot help if the database cannot store the text.
        again = isinstance(error, StoreUnavailable)
        return problem(503, str(error), RETRY_SOON if again else None)

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        errors = faults(error)
        return problem(422, summary(errors), errors=errors)

    @app.exception_handler(HTTPException)
    async def http(_request: Request, error: HTTPException) -> JSONResponse:
        detail = error.detail
        if error.status_code in DETAILS:
            detail = DETAILS[error.status_code].format(root_path=settings().root_path)
        return problem(error.status_code, detail, error.headers)

    @app.exception_handler(Exception)
    async def unexpected(_request: Request, _error: Exception) -> JSONResponse:
        return problem(500, OUR_FAULT)

    @app.exception_handler(ClientDisconnect)
    async def gone(_request: Request, _error: ClientDisconnect) -> JSONResponse:
        return problem(400, "The body is incomplete.")  # the client has left; nothing is logged


def summary(problems: Sequence[Mapping[str, str]]) -> str:
    """Return what is wrong with a request as one sentence."""
    lines = "; ".join(f"{fault['pointer']}: {fault['detail']}" for fault in problems)
    return f"The request is not valid: {lines}."


def faults(error: RequestValidationError) -> list[dict[str, str]]:
    """Return what is wrong with a request, a `{"detail", "pointer"}` for each fault."""
    return [_fault(fault) for fault in error.errors()]


def _fault(fault: Mapping[str, Any]) -> dict[str, str]:
    """Return what is wrong and where, without the value that was sent."""
    place, *path = fault["loc"]
    if fault["type"] == "json_invalid":
        return {"detail": "the body is not JSON", "pointer": "#"}
    detail = str(fault["msg"]).removeprefix("Value error, ")
    detail = detail[:1].lower() + detail[1:]
    if place == "body":
        return {"detail": detail, "pointer": "#" + "".join(f"/{part}" for part in path)}
    mark = "?" if place == "query" else ""
    return {"detail": detail, "pointer": f"{mark}{'.'.join(map(str, path))}"}
