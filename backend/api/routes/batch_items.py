"""The items of POST /tasks/batch: their models, and the tasks made of them."""

from __future__ import annotations

import json
import re
import secrets
from typing import TYPE_CHECKING, Any, Literal

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import to_json

from backend.api.body import Answer, in_body
from backend.api.options import refuse_above_declared
from backend.api.problems import FieldProblem
from backend.api.routes.task_models import TaskId
from backend.json_text import FRACTION, compact
from backend.options import Options
from backend.registry import names, registered
from backend.states import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.api.services import Services
    from backend.db.records import TaskRecord


MAX_ITEMS = 1000
# The default, to recognise an item without options quickly.
NO_OPTIONS = Options()


class BatchItem(BaseModel):
    """A task of a batch."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field("insert_message", description="The task's name")
    arguments: Any = Field(
        description="What POST /tasks/{name} takes", examples=[{"content": "Hello World"}]
    )
    options: Options = Field(
        NO_OPTIONS, description="What POST /tasks/{name} takes in its query; `tags` is a list"
    )


class BatchEntry(Answer):
    """An accepted task of a batch."""

    task_id: TaskId
    status: Literal[State.PENDING]


class BatchAccepted(Answer):
    """All tasks of a batch are on disk and will run; ids in the order of the request."""

    tasks: list[BatchEntry]
    total: int = Field(examples=[1])


class BatchLine(Answer):
    """The answer to a line of NDJSON."""

    line: int = Field(description="The line's number, from 1", examples=[1])
    task_id: TaskId | SkipJsonSchema[None] = Field(
        None, description="The id of a task that is on disk, or may be (UNKNOWN)"
    )
    status: Literal[State.PENDING, "REFUSED", "UNKNOWN"] | SkipJsonSchema[None] = Field(
        None,
        description="PENDING: on disk. REFUSED: a valid line that was not stored. UNKNOWN: the"
        " store failed, the task may have been stored. Absent if the line is not valid",
    )
    errors: list[FieldProblem] | SkipJsonSchema[None] = Field(
        None, description="What is wrong; absent with PENDING"
    )


# json.dumps may write a number with a fraction differently, so it is kept as marked text.
_MARK = secrets.token_hex(16)
_MARKED = re.compile(rf'"{_MARK}([^"]*)"')


def arguments_of(items: Sequence[BatchItem], text: str) -> list[str]:
    """Return the items' arguments as JSON text, each number as it was written.

    `text` is the array that the items were read from. A worker reads the same text as the API.
    """
    if not FRACTION.search(text):
        return [to_json(item.arguments).decode() for item in items]
    read = json.loads(text, parse_float=lambda number: _MARK + number)
    return [_MARKED.sub(r"\1", compact(json.dumps(item["arguments"]))) for item in read]


def task_of(item: BatchItem, arguments: str, services: Services, *place: int) -> TaskRecord:
    """Return the task of an item; `place` is the item's index in the body.

    Raises RequestValidationError.
    """
    spec = registered().get(item.name)
    if spec is None:
        fault = {"type": "unknown_task", "loc": ("name",), "msg": f"must be one of {names()}"}
        raise RequestValidationError(in_body([fault], *place))
    try:
        spec.arguments.model_validate_json(arguments)
    except ValidationError as error:
        raise RequestValidationError(in_body(error.errors(), *place, "arguments")) from error
    if item.options is NO_OPTIONS:
        return services.new_task(spec, arguments)
    options = item.options or None
    refuse_above_declared(options, spec, ("body", *place, "options"))
    return services.new_task(spec, arguments, options)
