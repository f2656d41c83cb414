"""Arguments and results of any type: a task gets exactly what the API accepted."""

from __future__ import annotations

import asyncio
import json
import math
from decimal import Decimal
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from fastapi.exceptions import RequestValidationError
from hypothesis import HealthCheck, example, given, settings
from pydantic import BaseModel, RootModel, TypeAdapter

from backend.api.body import read_json
from backend.api.routes.batch_items import BatchItem, arguments_of
from backend.call import as_json, call, read_arguments
from backend.errors import TaskError
from backend.task import Run, Task
from backend.task_checks import _check_model
from tests.support.shapes import asked

if TYPE_CHECKING:
    from collections.abc import Iterator


pytestmark = pytest.mark.usefixtures("service")


@pytest.fixture
def connection(database: sa.Engine) -> Iterator[sa.Connection]:
    with database.connect() as made:
        yield made


def accepted(model: type[BaseModel], body: str) -> str | None:
    """Return the text that POST /tasks/<name> stores; None if it refuses the body."""

    async def read() -> bytes:
        return body.encode("utf-8", "surrogatepass")

    scope = {"headers": [(b"content-type", b"application/json")]}
    request: Any = SimpleNamespace(body=read, scope=scope)
    try:
        return asyncio.run(read_json(request, TypeAdapter(model)))[1]
    except RequestValidationError:
        return None


def accepted_in_batch(model: type[BaseModel], body: str) -> str | None:
    """Return the text that POST /tasks/batch stores; None if it refuses the body."""
    whole = f'[{{"name": "a_task", "arguments": {body}}}]'
    text = accepted(RootModel[list[BatchItem]], whole)
    if text is None:
        return None
    items = TypeAdapter(list[BatchItem]).validate_json(text)
    (arguments,) = arguments_of(items, text)
    try:
        model.model_validate_json(arguments)
    except ValueError:
        return None
    return arguments


def seen(model: type[BaseModel], text: str) -> Any:  # noqa: ANN401 - a model
    """Return the arguments that the task's function gets."""
    given: list[object] = []

    def function(args: BaseModel, _run: Run) -> BaseModel:
        given.append(args)
        return args

    spec = Task("a_task", function, model, 1, 60, one_commit=False)
    call(spec, read_arguments(spec, text), Run("id", 1, None))  # type: ignore[arg-type]  # needs no session
    return given[0]


def same(one: Any, other: Any) -> bool:  # noqa: ANN401 - anything
    """Return whether two values are equal and of one type; NaN is equal to itself."""
    if type(one) is not type(other):
        return False
    if isinstance(one, BaseModel):
        return same(one.__dict__, other.__dict__) and same(one.model_extra, other.model_extra)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other or (isinstance(one, float) and math.isnan(one) and math.isnan(other)))


EXAMPLES = settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@EXAMPLES
@given(asked())
@example((RootModel[float], "NaN"))
@example((RootModel[dict[str, Any]], '{"a": [-Infinity]}'))
@example((RootModel[float | None], "1e400"))
@example((RootModel[Decimal], "0.10000000000000000001"))
def test_a_task_gets_the_arguments_that_either_route_accepted(
    connection: sa.Connection, asked: tuple[type[BaseModel], str]
) -> None:
    model, body = asked
    _check_model("a_task", model)
    text, in_batch = accepted(model, body), accepted_in_batch(model, body)
    assert (text is None) == (in_batch is None), (text, in_batch)
    if text is None or in_batch is None:
        return
    promised = model.model_validate_json(body)
    for stored in (text, in_batch):
        as_json = sa.text("SELECT CAST(CAST(:text AS json) AS text)")
        read = connection.execute(as_json, {"text": stored}).scalar_one()
        assert same(seen(model, read), promised), read


@EXAMPLES
@given(asked())
@example((RootModel[float], "Infinity"))
@example((RootModel[dict[str, Any]], '{"a": [NaN]}'))
def test_a_stored_value_has_no_null_that_the_task_did_not_return(
    asked: tuple[type[BaseModel], str],
) -> None:
    model, body = asked
    try:
        value = model.model_validate_json(body)
    except ValueError:
        return
    try:
        text = as_json(value)
    except TaskError:
        assert infinite(value), "only infinite numbers are refused"
        return
    assert nulls(json.loads(text)) == nulls(value.model_dump(by_alias=True)), text


def infinite(value: object) -> bool:
    """Return whether a value holds NaN or an infinity."""
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return any(map(infinite, value))
    return isinstance(value, float) and not math.isfinite(value)


def nulls(value: object) -> int:
    """Count the nulls."""
    if isinstance(value, dict):
        return sum(map(nulls, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(nulls, value))
    return int(value is None)
