"""The class of our routes: documented by FastAPI, and read without its cost.

FastAPI 0.165 examines what a route declares anew at each request: reading a body and a header took
half the time of POST /tasks/. Here a route's declarations are read once, when it is made.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from fastapi import Header
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError

from backend.errors import Invalid

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping

    from fastapi._compat import ModelField
    from starlette.requests import Request
    from starlette.responses import Response

T = TypeVar("T")
# Bodies that are accepted where none is expected: they carry no data.
_EMPTY_BODIES = {b"", b"{}", b"null"}

# The default of a parameter without one. Its annotation does not allow None, and so the OpenAPI
# document has no null, which neither a query nor a header can have.
ABSENT: Any = None
IdempotencyKey = Annotated[
    str,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="Repeat a request with the same key to get the first answer again",
    ),
]


def unknown_parameter(known: Collection[str]) -> str:
    """Return what is said of a query parameter that is none of the known."""
    listed = f"known here: {', '.join(known)}" if known else "this route takes none"
    return f"unknown parameter; {listed}"


def _query_values(request: Request, fields: Mapping[str, ModelField]) -> dict[str, Any]:
    """Return the values of the query. Raises RequestValidationError, also for unknown names."""
    given = request.query_params.multi_items()
    texts = dict(given)
    faults = [
        {"type": "unknown", "loc": ("query", name), "msg": unknown_parameter(fields)}
        for name in texts
        if name not in fields
    ]
    if len(texts) < len(given):
        repeated = "given more than once; give it once"
        faults += [
            {"type": "repeated", "loc": ("query", name), "msg": repeated}
            for name, count in Counter(name for name, _ in given).items()
            if count > 1 and name in fields
        ]
    known_texts = [(fields[name], text) for name, text in texts.items() if name in fields]
    return _values("query", known_texts, faults)


def _header_values(request: Request, fields: Mapping[bytes, ModelField]) -> dict[str, Any]:
    """Return the values of the headers; of two with one name the first counts.

    Raises RequestValidationError.
    """
    given: dict[bytes, str] = {}
    for name, value in request.scope["headers"]:
        if name in fields and name not in given:
            given[name] = value.decode("latin-1")
    if not given:
        return {}
    return _values("header", [(fields[name], text) for name, text in given.items()], [])


def _values(
    place: str, texts: Iterable[tuple[ModelField, str]], faults: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return each field's value by its name.

    Raises RequestValidationError with the given faults and those of the values.
    """
    values: dict[str, Any] = {}
    for field, text in texts:
        values[field.name], errors = field.validate(text, loc=(place, field.alias))
        faults += errors
    if faults:
        raise RequestValidationError(faults)
    return values


async def _refuse_body(request: Request, refusal: str) -> None:
    """Raise Invalid if there is a body that says something: it would be ignored."""
    if b"".join((await request.body()).split()) not in _EMPTY_BODIES:
        raise Invalid(refusal, [{"detail": refusal, "pointer": "#"}])


def _body_refusal(query: Mapping[str, ModelField]) -> str:
    """Return what to say to a body where none is taken."""
    refusal = "This route takes no body."
    if query:
        example = "&".join(f"{name}={field.default}" for name, field in query.items())
        refusal += f" Send its parameters in the query: ?{example}"
    return refusal


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


class QuickRoute(APIRoute):
    """A route that passes to its endpoint only what the endpoint declares, and refuses the rest.

    An endpoint may declare `request`, path parameters, query parameters and headers of one value
    with a default, and one body; its dependencies are not resolved. `request.scope["json_text"]` is
    the text of the body. A query parameter that is not declared is refused, and so is a body of a
    POST whose endpoint declares none.
    """

    # Returns the body as a value, and its text. Raises RequestValidationError.
    read_body = staticmethod(read_json)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request (see FastAPI, "Custom Request and APIRoute class").

        Raises TypeError for a declaration that is not supported.
        """
        endpoint, body, declared = self.endpoint, self.body_field, self.dependant
        # With its limits, such as those of a list's length.
        model: Any = body.field_info.rebuild_annotation() if body else None
        adapter: TypeAdapter[Any] = TypeAdapter(model)
        query = {field.alias: field for field in declared.query_params}
        headers = {field.alias.lower().encode(): field for field in declared.header_params}
        parameters = (*query.values(), *headers.values())
        required = any(field.field_info.is_required() for field in parameters)
        if required or declared.dependencies or declared.cookie_params:
            raise TypeError(f"{self.path}: give each parameter a default; no Depends, no Cookie")
        takes_request = bool(declared.request_param_name)
        bodiless, read_body = self.methods == {"POST"}, self.read_body
        refusal = _body_refusal(query)

        async def answer(request: Request) -> Response:
            arguments: dict[str, Any] = {**request.path_params}
            if takes_request:
                arguments["request"] = request
            if request.scope["query_string"]:
                arguments |= _query_values(request, query)
            if headers:
                arguments |= _header_values(request, headers)
            if body:
                value, request.scope["json_text"] = await read_body(request, adapter)
                arguments[body.name] = value
            elif bodiless:
                await _refuse_body(request, refusal)
            response: Response = await endpoint(**arguments)
            return response

        return answer
