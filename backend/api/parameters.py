"""Parameters of the routes that are asked most, read without FastAPI's help.

FastAPI 0.165 examines the declared parameters anew at each request, which took a quarter of the
time of POST /tasks/. These are documented and refused in the same form.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import Field, TypeAdapter, ValidationError

if TYPE_CHECKING:
    from starlette.requests import Request

T = TypeVar("T")


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
