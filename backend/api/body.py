"""Reads the body of a request as JSON: the value, and the text, which the task gets."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, ValidationError

from backend.errors import Invalid

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pydantic import TypeAdapter
    from starlette.requests import Request

T = TypeVar("T")
NOT_JSON = "Send a JSON body with the header Content-Type: application/json."
# Bodies that are accepted where none is expected: they carry no data.
_EMPTY_BODIES = {b"", b"{}", b"null"}


async def refuse_body(request: Request, refusal: str) -> None:
    """Raise Invalid for a body with data: the route would ignore it."""
    if b"".join((await request.body()).split()) not in _EMPTY_BODIES:
        raise Invalid(refusal, [{"detail": refusal, "pointer": "#"}])


def json_text(request: Request) -> str:
    """Return the text of the JSON body that a request's route has read."""
    text: str = request.scope["json_text"]
    return text


async def read_json(request: Request, adapter: TypeAdapter[T]) -> tuple[T, str]:
    """Return the body as a value of the adapter's type, and its text.

    Raises Invalid if Content-Type is not JSON, RequestValidationError if the body is not valid.
    """
    body = await request.body()
    if not _is_json(request):
        raise Invalid(NOT_JSON, [{"detail": NOT_JSON, "pointer": "#"}])
    try:
        try:
            value, text = adapter.validate_json(body), body.decode()
        except ValidationError as error:
            value, text = _read_leniently(error, body, adapter)
    except ValidationError as error:
        raise RequestValidationError(in_body(error.errors())) from error
    refuse_constants(text)
    return value, text


def _read_leniently(error: ValidationError, body: bytes, adapter: TypeAdapter[T]) -> tuple[T, str]:
    """Read a body again with Python's parser after Pydantic found no JSON in it.

    Accepts a byte order mark, UTF-16 and UTF-32. Returns the value and the text. Raises a
    ValidationError that names the field of a lone surrogate.
    """
    if error.errors()[0]["type"] != "json_invalid":
        raise error
    try:
        text = body.decode(json.detect_encoding(body))
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise error from None
    try:
        return adapter.validate_json(text), text
    except ValidationError:
        adapter.validate_python(value)
        raise


def refuse_constants(text: str) -> None:
    """Raise RequestValidationError for NaN and Infinity: Pydantic accepts them, JSON does not."""
    if "NaN" not in text and "Infinity" not in text:
        return

    def refuse(constant: str) -> None:
        fault = {"type": "json_invalid", "loc": ("body",), "msg": f"{constant} is not JSON"}
        raise RequestValidationError([fault])

    json.loads(text, parse_constant=refuse)


def dump_json(value: object) -> str:
    """Return a value as JSON text without spaces, as FastAPI writes it."""
    return json.dumps(value, separators=(",", ":"))


def in_body(faults: Iterable[Mapping[str, Any]], *place: int | str) -> list[dict[str, Any]]:
    """Return Pydantic's faults with FastAPI's `loc`: it begins with `body` and `place`."""
    return [{**fault, "loc": ("body", *place, *fault["loc"])} for fault in faults]


def _is_json(request: Request) -> bool:
    """Return whether Content-Type is JSON. A cross-site form cannot send it (CSRF)."""
    for name, value in request.scope["headers"]:
        if name == b"content-type":
            kind: bytes = value.partition(b";")[0].strip().lower()
            return kind == b"application/json" or (
                kind.startswith(b"application/") and kind.endswith(b"+json")
            )
    return False


class Answer(BaseModel):
    """The base of all answers: an answer has exactly the keys of its model."""

    model_config = ConfigDict(extra="forbid")
