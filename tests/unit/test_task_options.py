"""`queue`, `max_running` and `per` of `@task`: what counts together, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import AfterValidator, BaseModel, Field, SecretStr

import backend.task
from backend.errors import RegistrationError
from backend.task import Run, Task, task
from backend.task_checks import MAX_RUNNING

if TYPE_CHECKING:
    from collections.abc import Mapping


def known(place: str) -> str:
    """Return the place. Raises an error that no validator should raise."""
    return {"": ""}[place]


class Call(BaseModel):
    """What a task calls."""

    customer: int = 1
    user_id: UUID | str | None = None
    kind: Literal["call", "visit"] = "call"
    tags: set[str] = set()
    secret: SecretStr = SecretStr("")
    hidden: str = Field("", exclude=True)
    place: Annotated[str, AfterValidator(known)] = Field("", validation_alias="where")


@pytest.fixture(autouse=True)
def declared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove what a test declares."""
    monkeypatch.setattr(backend.task, "declared_tasks", {})


def declare(**options: Any) -> Task:
    """Declare a task and return it."""

    @task(name="call", aliases=("old_call",), **options)
    def call(args: Call, run: Run) -> Call:  # noqa: ARG001 - a task's signature
        return args

    return backend.task.declared_tasks["old_call"]


def key(args: str, per: str = "customer") -> str:
    """Return what the limit of a task with these arguments counts."""
    limit = declare(max_running=2, per=per).limit(args)
    assert limit is not None
    assert limit.most == 2
    return limit.key


def test_a_task_without_max_running_has_no_limit() -> None:
    assert declare().limit("{}") is None


def test_without_per_all_tasks_of_a_name_count_together() -> None:
    limit = declare(max_running=3).limit('{"customer": 5}')
    assert limit == ("call", 3)


@pytest.mark.parametrize("same", ['{"customer": 1}', '{"customer": "1", "where": ""}'])
def test_equal_values_count_together_also_a_default(
    same: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = key("{}")
    monkeypatch.setattr(backend.task, "declared_tasks", {})
    assert key(same) == first
    assert first.startswith("call/")


def test_different_values_count_separately(monkeypatch: pytest.MonkeyPatch) -> None:
    first = key('{"customer": 1}')
    monkeypatch.setattr(backend.task, "declared_tasks", {})
    assert key('{"customer": 2}') != first


@pytest.mark.parametrize(
    "args", ["null", '{"customer": "many"}', '{"where": "a KeyError in a validator"}']
)
def test_arguments_that_do_not_fit_have_a_limit_too(args: str) -> None:
    assert key(args).startswith("call/")


@pytest.mark.parametrize("per", ["customer", "user_id", "kind", "place"])
def test_these_kinds_of_arguments_can_be_counted(per: str) -> None:
    assert declare(max_running=1, per=per).per == per


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"one_commit": True, "queue": "reports"}, "have a queue of their own"),
        ({"one_commit": True, "max_running": 1}, "without one_commit"),
        ({"queue": "short_tasks"}, "its queue may have only lower case letters"),
        ({"queue": "Reports"}, "its queue may have only lower case letters"),
        ({"max_running": 0}, f"a whole number from 1 to {MAX_RUNNING}"),
        ({"max_running": 1.5}, f"a whole number from 1 to {MAX_RUNNING}"),
        ({"per": "customer"}, f"a whole number from 1 to {MAX_RUNNING}"),
        ({"max_running": 1, "per": "user"}, "per must name a field"),
        ({"max_running": 1, "per": "tags"}, "per must name a field"),
        ({"max_running": 1, "per": "secret"}, "per must name a field"),
        ({"max_running": 1, "per": "hidden"}, "per must name a field"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(
    options: Mapping[str, Any], said: str
) -> None:
    with pytest.raises(RegistrationError, match=said):
        declare(**options)


@pytest.mark.parametrize(
    ("options", "queue"),
    [
        ({}, "tasks"),
        ({"one_commit": True}, "short_tasks"),
        ({"queue": "reports"}, "reports"),
        ({"queue": "tasks"}, "tasks"),
    ],
)
def test_each_task_has_a_queue(options: Mapping[str, Any], queue: str) -> None:
    assert declare(**options).queue == queue


@pytest.mark.parametrize(
    "options",
    [
        {"retry_for": ValueError},
        {"retry_for": ("ValueError",)},
        {"retry_for": (1,)},
        {"backoff": 2},
        {"backoff": (2, 2)},
        {"backoff": (-1, 2, 300)},
        {"backoff": (1, 0.5, 300)},
        {"backoff": (1, 2, 100_000)},
        {"backoff": (1, 2, float("nan"))},
    ],
)
def test_wrong_options_of_retries_are_refused(options: Mapping[str, Any]) -> None:
    with pytest.raises(RegistrationError, match=next(iter(options))):
        declare(**options)
