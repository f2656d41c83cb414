"""Routes that are asked thousands of times a second, documented by FastAPI and read without it.

FastAPI 0.165 examines what a route declares anew at each request: reading a body and a header took
half the time of POST /tasks/. What is read here is documented, and refused, in the same form.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import Field, TypeAdapter, ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping

    from starlette.requests import Request
    from starlette.responses import Response

T = TypeVar("T")


class QuickRoute(APIRoute):
    """A route whose endpoint takes what it declares of: `request`, the path's parameters, a body.

    The body is a type that Pydantic validates, and `request.scope["json_text"]` is what it was read
    from; other parameters are read by a `Parameter`, and dependencies are not looked at.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request (see FastAPI, "Custom Request and APIRoute class")."""
        endpoint, body = self.endpoint, self.body_field
        model: Any = body.field_info.annotation if body else None
        adapter: TypeAdapter[Any] = TypeAdapter(model)

        async def answer(request: Request) -> Response:
            arguments = {"request": request, **request.path_params}
            if body:
                value, request.scope["json_text"] = await read_json(request, adapter)
                arguments[body.name] = value
            response: Response = await endpoint(**arguments)
            return response

        return answer


async def read_json(request: Request, adapter: TypeAdapter[T]) -> tuple[T, str]:
    """Return the body as a value of the adapter's type, and its text.

    Raises RequestValidationError.
    """
    body = await request.body()
    if not _is_json(request):
        fault = {"type": "json_type", "loc": ("body",), "msg": "must be JSON"}
        raise RequestValidationError([fault])
    try:
        try:
            value, text = adapter.validate_json(body), body.decode()
        except ValidationError as error:
            value, text = _second_reading(error, body, adapter)
    except ValidationError as error:
        raise RequestValidationError(in_body(error.errors())) from error
    refuse_constants(text)
    return value, text


def _second_reading(error: ValidationError, body: bytes, adapter: TypeAdapter[T]) -> tuple[T, str]:
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
    """Raise RequestValidationError for NaN and Infinity, which Pydantic reads and JSON lacks."""
    if "NaN" not in text and "Infinity" not in text:
        return

    def refuse(constant: str) -> None:
        fault = {"type": "json_invalid", "loc": ("body",), "msg": f"{constant} is not JSON"}
        raise RequestValidationError([fault])

    json.loads(text, parse_constant=refuse)


def compact(value: object) -> str:
    """Return a value as JSON text without spaces, as FastAPI writes it."""
    return json.dumps(value, separators=(",", ":"))


def in_body(faults: Iterable[Mapping[str, Any]], *place: int | str) -> list[dict[str, Any]]:
    """Return Pydantic's faults with their place in the body, as FastAPI has them."""
    return [{**fault, "loc": ("body", *place, *fault["loc"])} for fault in faults]


def _is_json(request: Request) -> bool:
    """Return whether the request says so: what a page of another site may send does not."""
    for name, value in request.scope["headers"]:
        if name == b"content-type":
            kind: bytes = value.partition(b";")[0].strip().lower()
            return kind == b"application/json" or (
                kind.startswith(b"application/") and kind.endswith(b"+json")
            )
    return False


class Parameter(Generic[T]):
    """A query parameter or header with a default."""

    def __init__(self, place: str, name: str, kind: Any, default: T, description: str) -> None:  # noqa: ANN401 - a type with its limits
        self._place = place
        self._key = name.lower().encode()
        self._adapter: TypeAdapter[T] = TypeAdapter(kind)
        self._default = default
        self.openapi: dict[str, Any] = {
            "name": name,
            "in": place,
            "required": False,
            "schema": self._adapter.json_schema()
            | ({} if default is None else {"default": default}),
            "description": description,
        }

    def of(self, request: Request) -> T:
        """Return the value that a request gives it. Raises RequestValidationError."""
        text = self._text(request)
        if text is None:
            return self._default
        try:
            return self._adapter.validate_python(text)
        except ValidationError as error:
            raise RequestValidationError(
                [{**fault, "loc": (self._place, self.openapi["name"])} for fault in error.errors()]
            ) from error

    def _text(self, request: Request) -> str | None:
        if self._place == "header":
            for name, value in request.scope["headers"]:
                if name == self._key:
                    text: str = value.decode("latin-1")
                    return text
        elif request.scope["query_string"]:
            return request.query_params.get(self.openapi["name"])
        return None


IDEMPOTENCY_KEY: Parameter[str | None] = Parameter(
    "header",
    "Idempotency-Key",
    Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[\x21-\x7e]+$")],
    None,
    "Repeat a request with the same key to get the first answer again",
)
WAIT: Parameter[float] = Parameter(
    "query",
    "wait",
    Annotated[float, Field(ge=0, le=60)],
    0.0,
    "Seconds to wait for the task's end",
)
