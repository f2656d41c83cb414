"""Arguments and values of any shape: what the API accepts is what the task sees."""

from __future__ import annotations

import asyncio
import enum
import json
import math
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from uuid import UUID

import pytest
import sqlalchemy as sa
from fastapi.exceptions import RequestValidationError
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, RootModel, TypeAdapter, create_model
from pydantic.alias_generators import to_camel

from backend.api.routes.batch_items import BatchItem
from backend.errors import TaskError
from backend.task import Run, Task, _check_model

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("service")


class Colour(enum.Enum):
    """A choice."""

    RED = "red"
    BLUE = "blue"


CONFIGS = [
    ConfigDict(),
    ConfigDict(strict=True),
    ConfigDict(alias_generator=to_camel),
    ConfigDict(alias_generator=to_camel, populate_by_name=True),
    ConfigDict(extra="allow"),
    ConfigDict(extra="forbid", frozen=True),
    ConfigDict(ser_json_inf_nan="strings", ser_json_bytes="base64", val_json_bytes="base64"),
]
numbers = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.decimals(allow_nan=False, allow_infinity=False).map(str),
    st.floats().map(json.dumps),
    st.sampled_from(
        ["1e400", "-1E400", "1e-400", "-0", "-0.0", "0.10", "1.000", "NaN", "-Infinity"]
    ),
)
texts = st.one_of(
    st.text(max_size=8).map(json.dumps),
    st.text(max_size=8).map(lambda text: json.dumps(text, ensure_ascii=False)),
    st.sampled_from(['"\\u0000"', '"NaN"', '"2.50"', '"Infinity"', '"a"', '"red"', '"2026-11-26"']),
)
anything = st.recursive(
    st.one_of(numbers, texts, st.sampled_from(["true", "false", "null"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.dictionaries(texts, inner, max_size=3).map(
            lambda items: "{" + ",".join(f"{key}: {value}" for key, value in items.items()) + "}"
        ),
    ),
    max_leaves=6,
)


# mypy takes a type that is made at run time for a name.
LIST: Any = list
TUPLE: Any = tuple
DICT: Any = dict
ROOT: Any = RootModel


class Kind(NamedTuple):
    """A type, and JSON texts most of which it takes."""

    type: Any
    texts: st.SearchStrategy[str]


def quoted(values: st.SearchStrategy[Any]) -> st.SearchStrategy[str]:
    return values.map(lambda value: json.dumps(str(value)))


def iso(values: st.SearchStrategy[Any]) -> st.SearchStrategy[str]:
    return values.map(lambda value: json.dumps(value.isoformat()))


decimals = st.decimals(-(10**20), 10**20, places=25)
leaves = st.sampled_from(
    [
        Kind(int, st.integers(-(2**70), 2**70).map(str)),
        Kind(float, numbers),
        Kind(bool, st.sampled_from(["true", "false", "1"])),
        Kind(str, texts),
        Kind(bytes, texts),
        Kind(Decimal, st.one_of(decimals.map(str), quoted(decimals), numbers)),
        Kind(datetime, st.one_of(iso(st.datetimes()), st.integers(0, 10**10).map(str), numbers)),
        Kind(date, iso(st.dates())),
        Kind(time, iso(st.times())),
        Kind(timedelta, st.one_of(numbers, st.just('"P3DT12H30M5S"'))),
        Kind(UUID, quoted(st.uuids())),
        Kind(Colour, st.sampled_from(['"red"', '"blue"'])),
        Kind(Literal["a", 7], st.sampled_from(['"a"', "7"])),
        Kind(Any, anything),
        Kind(dict[str, Any], anything),
    ]
)


def list_of(inner: Kind, kind: Any) -> Kind:  # noqa: ANN401 - a type
    return Kind(kind, st.lists(inner.texts, max_size=3).map(lambda items: f"[{', '.join(items)}]"))


def dict_of(inner: Kind, kind: Any, keys: st.SearchStrategy[str]) -> Kind:  # noqa: ANN401 - a type
    members = st.dictionaries(keys, inner.texts, max_size=3)
    return Kind(kind, members.map(lambda found: object_of(*found.items())))


def object_of(*members: tuple[str, str]) -> str:
    return "{" + ", ".join(f"{key}: {value}" for key, value in members) + "}"


def model_of(fields: dict[str, Kind], config: ConfigDict) -> Kind:
    definitions: dict[str, Any] = {name: (kind.type, ...) for name, kind in fields.items()}
    made: type[BaseModel] = create_model("Made", __config__=config, **definitions)
    keys = [json.dumps(field.alias or name) for name, field in made.model_fields.items()]
    members = st.tuples(*(kind.texts for kind in fields.values()))
    return Kind(made, members.map(lambda found: object_of(*zip(keys, found, strict=True))))


def grown(inner: st.SearchStrategy[Kind]) -> st.SearchStrategy[Kind]:
    return st.one_of(
        inner.map(lambda kind: Kind(kind.type | None, st.one_of(kind.texts, st.just("null")))),
        inner.map(lambda kind: list_of(kind, LIST[kind.type])),
        inner.map(lambda kind: list_of(kind, TUPLE[kind.type, ...])),
        inner.map(lambda kind: dict_of(kind, DICT[str, kind.type], texts)),
        inner.map(lambda kind: dict_of(kind, DICT[int, kind.type], st.just('"7"'))),
        st.tuples(inner, inner).map(
            lambda two: Kind(two[0].type | two[1].type, st.one_of(two[0].texts, two[1].texts))
        ),
        st.builds(lambda kind, config: model_of({"a_field": kind}, config), inner, configs),
    )


configs = st.sampled_from(CONFIGS)
kinds = st.recursive(leaves, grown, max_leaves=4)
roots = kinds.map(lambda kind: Kind(ROOT[kind.type], kind.texts))
objects = st.builds(
    lambda one, two, config: model_of({"one_field": one, "two_fields": two}, config),
    kinds,
    kinds,
    configs,
)


@st.composite
def asked(draw: st.DrawFn) -> tuple[type[BaseModel], str]:
    """Give a model of arguments, and a body."""
    kind = draw(st.one_of(objects, objects, roots))
    return kind.type, draw(st.one_of(kind.texts, kind.texts, kind.texts, anything))


@pytest.fixture
def connection(database: sa.Engine) -> Iterator[sa.Connection]:
    with database.connect() as made:
        yield made


def accepted(model: type[BaseModel], body: str) -> str | None:
    """Return the text that POST /tasks/<name> stores; None where it refuses the body."""
    from backend.api.body import read_json

    async def read() -> bytes:
        return body.encode("utf-8", "surrogatepass")

    scope = {"headers": [(b"content-type", b"application/json")]}
    request: Any = SimpleNamespace(body=read, scope=scope)
    try:
        return asyncio.run(read_json(request, TypeAdapter(model)))[1]
    except RequestValidationError:
        return None


def accepted_in_batch(model: type[BaseModel], body: str) -> str | None:
    """Return the text that POST /tasks/batch stores; None where it refuses the body."""
    from backend.api.routes.batch_items import arguments_of

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
    """Return what the task's function is given."""
    from backend.worker.attempt.call import call

    given: list[object] = []

    def function(args: BaseModel, _run: Run) -> BaseModel:
        given.append(args)
        return args

    call(Task("a_task", function, model, 1, 60, one_commit=False), text, Run("id", 1, None))  # type: ignore[arg-type]  # needs no session
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
def test_a_task_sees_what_the_api_accepted_on_both_routes(
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
def test_a_value_gets_no_null_that_the_task_did_not_return(
    asked: tuple[type[BaseModel], str],
) -> None:
    from backend.worker.attempt.call import as_json

    model, body = asked
    try:
        value = model.model_validate_json(body)
    except ValueError:
        return
    try:
        text = as_json(value)
    except TaskError:
        assert infinite(value), "nothing else is refused"
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
    """Count what is null."""
    if isinstance(value, dict):
        return sum(map(nulls, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(nulls, value))
    return int(value is None)
