"""Our route class: routes are declared like FastAPI's, and compiled once.

FastAPI 0.165 examines a route's declaration at each request: 60 us for a POST with a body and a
header, 43 us for a GET (here 20 and 16; all of POST /tasks/ takes about 140). This class reads the
declaration once, and refuses what it does not support.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from fastapi import Request, Response
from fastapi._compat import is_scalar_field
from fastapi._compat.shared import field_annotation_is_scalar_sequence
from fastapi.datastructures import DefaultPlaceholder
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

from backend.api.body import read_json, refuse_body
from backend.api.query import QUERY_HINT, read_query

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from fastapi._compat import ModelField
    from fastapi.dependencies.models import Dependant
    from starlette.types import Receive, Scope, Send

    Faults = list[dict[str, Any]]

# Default of an optional parameter. The annotation does not allow None, so OpenAPI shows no null.
ABSENT: Any = None
JSON = "application/json"


class Route(APIRoute):
    """A FastAPI route, compiled from its declaration.

    Supported: `async def`; `request`; path parameters; query parameters; headers with one value;
    one JSON body; dependencies that are `async def`, called before the body is read, once per
    request unless `use_cache=False`. One that reads only the query is called once for all requests
    without its parameters. The endpoint returns a Response, or a value for the route's response
    model. Overrides of dependencies (`app.dependency_overrides`) have no effect.

    A query parameter that is not declared is refused, and so is a body of a POST whose endpoint
    declares none.
    """

    # Returns the body as a value, and its text. Raises RequestValidationError.
    read_body = staticmethod(read_json)

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        """Declare a route, as APIRoute does. Raises TypeError for what is not supported."""
        super().__init__(path, endpoint, **options)
        self._answer = self._compile()
        # FastAPI's own app also handles errors, which the middleware around all routes handles too.
        self.app = self._serve

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._answer(Request(scope, receive, send))
        await response(scope, receive, send)

    def _compile(self) -> Callable[[Request], Awaitable[Response]]:
        """Return the function that answers a request. Raises TypeError as `__init__` does."""
        endpoint = _Call(self.path, self.dependant, is_endpoint=True)
        self._refuse_unsupported()
        body, read_body = self.body_field, self.read_body
        refuses_body = body is None and self.methods == {"POST"}
        # Keeps limits such as max_length.
        model: Any = body.field_info.rebuild_annotation() if body else None
        adapter: TypeAdapter[Any] = TypeAdapter(model)
        known = {
            name: _is_list(field) for call in endpoint.all() for name, field in call.query.items()
        }
        hint = (self.openapi_extra or {}).get(QUERY_HINT, "")
        refusal = _body_refusal(endpoint.query)
        respond = self._responder()

        async def answer(request: Request) -> Response:
            query: Mapping[str, Any] = {}
            faults: Faults = []
            if request.scope["query_string"]:
                query, faults = read_query(request, known, hint)
            arguments = await endpoint.arguments(request, query, faults, {})
            if body:
                value, request.scope["json_text"] = await read_body(request, adapter)
                arguments[body.name] = value
            elif refuses_body:
                await refuse_body(request, refusal)
            result = await endpoint.function(**arguments)
            return result if isinstance(result, Response) else respond(result)

        return answer

    def _refuse_unsupported(self) -> None:
        """Raise TypeError for what this class would ignore."""
        body = self.body_field
        unsupported = {
            "more than one body parameter": self._embed_body_fields,
            "a body with a default": body and not body.field_info.is_required(),
            "a body that is not JSON": body
            and getattr(body.field_info, "media_type", JSON) != JSON,
            "a response class": not isinstance(self.response_class, DefaultPlaceholder),
            "a limit of its own on the body": self.max_body_size is not None,
            "parts of a response model": self.response_model_include
            or self.response_model_exclude
            or self.response_model_exclude_unset
            or self.response_model_exclude_defaults
            or self.response_model_exclude_none
            or not self.response_model_by_alias,
        }
        _refuse(self.path, unsupported)

    def _responder(self) -> Callable[[Any], Response]:
        """Return the function that makes a response from an endpoint's value."""
        model, status, path = self.response_model, self.status_code or 200, self.path
        adapter: TypeAdapter[Any] = TypeAdapter(model)

        def respond(value: object) -> Response:
            if model is None:
                raise TypeError(f"{path}: return a Response, or declare a response model")
            checked = adapter.validate_python(value, from_attributes=True)
            text = adapter.dump_json(checked, by_alias=True)
            return Response(text, status, media_type=JSON)

        return respond


class _Call:
    """A function whose arguments are read from a request: an endpoint, or a dependency."""

    def __init__(self, path: str, declared: Dependant, *, is_endpoint: bool = False) -> None:
        """Compile what FastAPI has found. Raises TypeError for what is not supported."""
        self.function: Any = declared.call
        self.name = declared.name
        self.cached = declared.use_cache
        self._request = declared.request_param_name
        self._path = {field.alias: field for field in declared.path_params}
        self._plain_path = all(map(_takes_any_text, declared.path_params))
        self.query = {field.alias: field for field in declared.query_params}
        self._headers = {_header_name(field): field for field in declared.header_params}
        self._header_names = {name.encode(): name for name in self._headers}
        fields = (*self.query.values(), *self._headers.values())
        self._defaults = {
            field.name: field.get_default()
            for field in fields
            if not field.field_info.is_required()
        }
        self._query_required = any(field.field_info.is_required() for field in self.query.values())
        self.dependencies = [_Call(path, each) for each in declared.dependencies]
        others = (self._request, self._path, self._headers, self.dependencies)
        self._reads_only_query = bool(self.query) and not any(others)
        # Its value for a query without its parameters.
        self._without_query: dict[Any, Any] = {}
        unsupported = {
            "a function without `async def`": not inspect.iscoroutinefunction(self.function),
            "cookies": declared.cookie_params,
            "headers of several values": not all(
                is_scalar_field(field) or (_is_list(field) and field.alias in self.query)
                for field in fields
            ),
            "a body in a dependency": not is_endpoint and declared.body_params,
            "default factories": any(field.field_info.default_factory for field in fields),
            "BackgroundTasks, WebSocket, HTTPConnection, SecurityScopes or a Response parameter": (
                _special_parameter(declared)
            ),
        }
        _refuse(path, unsupported)

    def all(self) -> Iterator[_Call]:
        """Yield this call and those of its dependencies."""
        yield self
        for dependency in self.dependencies:
            yield from dependency.all()

    async def arguments(
        self,
        request: Request,
        query: Mapping[str, str],
        faults: Faults,
        done: dict[Any, Any],
    ) -> dict[str, Any]:
        """Return the function's arguments by name; `done` has the values of dependencies.

        Raises RequestValidationError with the given faults and those found here, and what a
        dependency raises.
        """
        values = dict(self._defaults)
        for dependency in self.dependencies:
            value = await dependency._value(request, query, done)  # noqa: SLF001 - of this class
            if dependency.name is not None:
                values[dependency.name] = value
        if self._request:
            values[self._request] = request
        if self._plain_path:
            for name in self._path:
                values[name] = request.path_params[name]
        else:
            _read("path", self._path, request.path_params, values, faults)
        if query or self._query_required:
            _read("query", self.query, query, values, faults)
        if self._headers:
            texts = _texts(request, self._header_names)
            _read("header", self._headers, texts, values, faults)
        if faults:
            raise RequestValidationError(faults)
        return values

    async def _value(
        self, request: Request, query: Mapping[str, Any], done: dict[Any, Any]
    ) -> object:
        """Return the function's value; call it once per request, unless `use_cache=False`.

        If it reads only the query, its value without parameters is the same for all requests.
        """
        if self._reads_only_query and self.query.keys().isdisjoint(query):
            done = self._without_query
        if self.cached and self.function in done:
            return done[self.function]
        value = await self.function(**await self.arguments(request, query, [], done))
        done[self.function] = value
        return value


def _refuse(path: str, unsupported: Mapping[str, object]) -> None:
    found = [what for what, declared in unsupported.items() if declared]
    if found:
        raise TypeError(f"{path}: this route class does not support {', '.join(found)}")


def _takes_any_text(field: ModelField) -> bool:
    """Return whether nothing has to be checked."""
    return (
        field.field_info.annotation is str
        and not field.field_info.metadata
        and field.name == field.alias
    )


def _is_list(field: ModelField) -> bool:
    return field_annotation_is_scalar_sequence(field.field_info.annotation)


def _special_parameter(declared: Dependant) -> str | None:
    """Return the name of a parameter that FastAPI fills with an object, other than Request."""
    return (
        declared.background_tasks_param_name
        or declared.websocket_param_name
        or declared.http_connection_param_name
        or declared.security_scopes_param_name
        or declared.response_param_name
    )


def _header_name(field: ModelField) -> str:
    """Return a header's name in lower case, with dashes if the parameter has no alias."""
    convert = getattr(field.field_info, "convert_underscores", False)
    name = field.alias.replace("_", "-") if convert and field.alias == field.name else field.alias
    return name.lower()


def _read(
    place: str,
    fields: Mapping[str, ModelField],
    texts: Mapping[str, Any],
    values: dict[str, Any],
    faults: Faults,
) -> None:
    """Add the fields' values to `values`, and what is wrong with them to `faults`."""
    for name, field in fields.items():
        if name in texts:
            values[field.name], errors = field.validate(texts[name], loc=(place, field.alias))
            faults += errors
        elif field.field_info.is_required():
            fault = {"type": "missing", "loc": (place, field.alias), "msg": "Field required"}
            faults.append(fault)


def _texts(request: Request, names: Mapping[bytes, str]) -> Mapping[str, str]:
    """Return the values of headers by name; if a name is repeated, the first value."""
    texts: dict[str, str] = {}
    for name, value in request.scope["headers"]:
        if name in names and names[name] not in texts:
            texts[names[name]] = value.decode("latin-1")
    return texts


def _body_refusal(query: Mapping[str, ModelField]) -> str:
    """Return the error text for a body that the route does not take."""
    refusal = "This route takes no body."
    if query:
        example = "&".join(
            f"{name}=…" if field.field_info.is_required() else f"{name}={field.default}"
            for name, field in query.items()
        )
        refusal += f" Send its parameters in the query: ?{example}"
    return refusal
