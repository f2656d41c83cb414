"""How the OpenAPI document shows the result of any task."""

from __future__ import annotations

import json
from typing import Annotated

import pytest
from openapi_schema_validator import OAS31Validator
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    RootModel,
)

from backend.api.routes import task_models
from backend.call import as_json
from backend.task import Task
from backend.tasks.slow import SlowArguments


class Handle:
    """A type that JSON Schema cannot describe."""


class Odd(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    handle: Annotated[Handle, PlainSerializer(lambda _: "x")]


class Renamed(BaseModel):
    """A model whose field has another name in JSON."""

    in_days: int = Field(alias="inDays", examples=[3])


Numbers = RootModel[Annotated[list[int], Field(examples=[[1, 2]])]]


def task_of(result: type[BaseModel]) -> Task:
    def function(args: BaseModel, run: object) -> BaseModel:
        """Do something.

        At length.
        """
        raise NotImplementedError

    function.__annotations__["return"] = result
    return Task("odd", function, BaseModel, 1, 60, one_commit=False)


@pytest.mark.parametrize(
    ("result", "example"),
    [(Odd, None), (Renamed, {"inDays": 3}), (Numbers, [1, 2]), (SlowArguments, {"duration": 10})],
)
def test_any_result_type_is_documented(result: type[BaseModel], example: object) -> None:
    task = task_of(result)
    assert task_models.example(task) == example
    description = task_models.describe(task)
    assert description.startswith("Do something.\n\nAt length.\n\nIts `result` in")
    assert (json.dumps(example, indent=2) in description) == (example is not None)
    schema = task_models.task_state([task]).model_json_schema(mode="serialization")
    state = {"task_id": "x", "status": "SUCCESS", "result": example}
    OAS31Validator(schema).validate(state)


def test_a_result_uses_the_documented_field_names() -> None:
    assert json.loads(as_json(Renamed(inDays=3))) == {"inDays": 3}
