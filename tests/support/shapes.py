"""Types of arguments of many kinds, and JSON texts that most of them accept."""

from __future__ import annotations

import enum
import json
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Literal, NamedTuple
from uuid import UUID

from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, RootModel, create_model
from pydantic.alias_generators import to_camel


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


# mypy treats a type that is made at run time as a variable.
LIST: Any = list
TUPLE: Any = tuple
DICT: Any = dict
ROOT: Any = RootModel


class Kind(NamedTuple):
    """A type, and JSON texts, most of which it accepts."""

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
    """Return a model of arguments, and a JSON text that it accepts in most cases."""
    kind = draw(st.one_of(objects, objects, roots))
    return kind.type, draw(st.one_of(kind.texts, kind.texts, kind.texts, anything))
