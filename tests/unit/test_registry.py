"""Declaring tasks: what is refused at import, and which task a name means."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from pydantic import (
    BaseModel,
    DirectoryPath,
    Field,
    FilePath,
    FutureDate,
    FutureDatetime,
    NewPath,
    PastDate,
    create_model,
)
from sqlalchemy.orm import Session

import backend.task
import backend.tasks
from backend import registry
from backend.call import call
from backend.errors import RegistrationError, TaskError
from backend.task import Run, task, task_of

if TYPE_CHECKING:
    from backend.task import Function


class Nothing(BaseModel):
    """No arguments, no value."""


def do_nothing(args: Nothing, run: Run) -> Nothing:  # noqa: ARG001 - a task's signature
    return Nothing()


@pytest.fixture(autouse=True)
def own_registry() -> Iterator[None]:
    """Start with the tasks of the package, and remove what a test declares."""
    declared = backend.task.declared_tasks
    ours, before = dict(registry.registered()), dict(declared)
    declared.clear()
    declared.update(ours)
    yield
    declared.clear()
    declared.update(before)


def test_the_package_declares_its_two_tasks() -> None:
    assert {"insert_message", "slow"} <= registry.registered().keys()
    assert registry.registered()["insert_message"].one_commit
    assert not registry.registered()["slow"].one_commit


def test_a_declared_task_has_its_defaults_and_is_still_a_function() -> None:
    assert task(name="idle")(do_nothing) is do_nothing
    declared = backend.task.declared_tasks["idle"]
    assert (declared.name, declared.function) == ("idle", do_nothing)
    assert declared.arguments is Nothing
    assert (declared.max_attempts, declared.time_limit) == (5, 3600)
    assert not declared.one_commit


def test_an_alias_leads_to_the_same_task() -> None:
    task(name="idle", aliases=("rest", "doze"))(do_nothing)
    idle, rest, doze = (backend.task.declared_tasks[name] for name in ("idle", "rest", "doze"))
    assert idle is rest is doze
    assert rest.name == "idle"


@pytest.mark.parametrize("name", ["slow", "insert_message"])
def test_a_duplicate_name_is_refused_with_the_place_of_the_first(name: str) -> None:
    with pytest.raises(RegistrationError, match=r"declared twice, in .*backend\.tasks\."):
        task(name=name)(do_nothing)


def test_a_duplicate_alias_is_refused() -> None:
    with pytest.raises(RegistrationError, match="declared twice"):
        task(name="idle", aliases=("slow",))(do_nothing)
    with pytest.raises(RegistrationError, match="declared twice"):
        task(name="twice", aliases=("twice",))(do_nothing)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
        ("def", "SyntaxError: "),
        ("raise ValueError('one\\ntwo')", "ValueError: one"),
    ],
)
def test_a_file_that_cannot_be_imported_is_named_in_one_line(
    text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.py").write_text(f"\n{text}\n")
    monkeypatch.setattr(backend.tasks, "__path__", [str(tmp_path)])
    registry.registered.cache_clear()
    with pytest.raises(RegistrationError) as caught:
        registry.registered()
    registry.registered.cache_clear()
    assert str(caught.value).startswith(f"backend.tasks.broken cannot be imported: {said}")
    assert "broken.py" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_reserved_name_is_refused() -> None:
    with pytest.raises(RegistrationError, match="reserved"):
        task(name="batch")(do_nothing)


@pytest.mark.parametrize("name", ["", "Slow", "1st", "a-b", "a/b", "a b", "_a", "a" * 101, "ä"])
def test_a_name_that_is_invalid_in_a_url_is_refused(name: str) -> None:
    with pytest.raises(RegistrationError, match="lower case letters, digits and underscores"):
        task(name=name)(do_nothing)


def no_hints(args, run):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201, ARG001
    return Nothing()


def no_model(args: dict[str, str], run: Run) -> Nothing:  # noqa: ARG001
    return Nothing()


def no_hint_of_args(args, run: Run) -> Nothing:  # type: ignore[no-untyped-def]  # noqa: ANN001, ARG001
    return Nothing()


def no_value(args: Nothing, run: Run) -> None: ...


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (no_hints, "args"),
        (no_model, "args"),
        (no_hint_of_args, "args"),
        (no_value, "return value"),
    ],
)
def test_a_function_without_models_is_refused_with_what_to_annotate(
    function: Function, what: str
) -> None:
    with pytest.raises(RegistrationError, match=rf"task 'idle': annotate .*{what}"):
        task(name="idle")(function)
    assert "idle" not in backend.task.declared_tasks


def no_run(args: Nothing) -> Nothing:
    return args


async def a_coroutine(args: Nothing, run: Run) -> Nothing:  # noqa: ARG001
    return args


@pytest.mark.parametrize(
    ("function", "options", "said"),
    [(no_run, {}, r"\(args, run\)"), (a_coroutine, {"one_commit": True}, "make it a `def`")],
)
def test_a_function_that_could_not_be_called_is_refused(
    function: Function, options: Mapping[str, Any], said: str
) -> None:
    with pytest.raises(RegistrationError, match=rf"task 'idle': .*{said}"):
        task(name="idle", **options)(function)
    here = {"run": f"{__name__}:{function.__name__}", **options}
    declared = task(name="idle", **here)(do_nothing)
    with pytest.raises(RegistrationError, match=rf"task 'idle': .*{said}"):
        _ = task_of(declared).function


def takes_lists(args: list[Nothing], runs: list[Run]) -> list[Nothing]:  # noqa: ARG001
    return args


def takes_a_list(args: list[Nothing], runs: list[Run]) -> Nothing:  # noqa: ARG001
    return args[0]


def returns_a_list(args: Nothing, run: Run) -> list[Nothing]:  # noqa: ARG001
    return [args]


def takes_one_run(args: list[Nothing], run: Run) -> list[Nothing]:  # noqa: ARG001
    return args


def takes_other_lists(args: list[int], runs: list[Run]) -> list[Nothing]:  # noqa: ARG001
    return []


def test_a_short_task_may_take_lists() -> None:
    task(name="idle", one_commit=True)(takes_lists)
    declared = backend.task.declared_tasks["idle"]
    assert declared.takes_lists
    assert (declared.arguments, declared.result) == (Nothing, Nothing)


@pytest.mark.parametrize(
    ("function", "options", "said"),
    [
        (takes_lists, {}, "only with one_commit can a function take lists"),
        (takes_a_list, {"one_commit": True}, "or without lists"),
        (returns_a_list, {"one_commit": True}, "or without lists"),
        (takes_one_run, {"one_commit": True}, "or without lists"),
        (returns_a_list, {}, "only with one_commit can a function take lists"),
        (takes_other_lists, {"one_commit": True}, "annotate .*args"),
    ],
)
def test_a_function_whose_lists_do_not_fit_is_refused(
    function: Function, options: Mapping[str, Any], said: str
) -> None:
    with pytest.raises(RegistrationError, match=rf"task 'idle': .*{said}"):
        task(name="idle", **options)(function)
    assert "idle" not in backend.task.declared_tasks


@pytest.mark.parametrize("seconds", [0, -1, 30 * 86400, float("inf"), float("nan")])
def test_a_time_limit_out_of_range_is_refused(seconds: float) -> None:
    with pytest.raises(RegistrationError, match="above 0, up to 2000000"):
        task(name="idle", time_limit=seconds)(do_nothing)


class Inner(BaseModel):
    """A model within a model."""

    at: FutureDatetime


CHANGING: dict[str, Any] = {
    "a date in the future": (FutureDate, ...),
    "a time in the future": (FutureDatetime, ...),
    "one of several": (list[FutureDate] | None, None),
    "in a model": (Inner, ...),
    "a random default": (UUID, Field(default_factory=uuid4)),
    "the time as default": (datetime, Field(default_factory=lambda: datetime.now(UTC))),
    "a default without equals": (Any, Field(default_factory=object)),
    "a file that must exist": (FilePath, ...),
    "a folder that must exist": (list[DirectoryPath], ...),
    "a path that must not exist": (NewPath | None, None),
    "items that are read later": (Iterable[int], ...),
}
STEADY: dict[str, Any] = {
    "a date in the past": (PastDate, ...),
    "an empty list": (list[int], Field(default_factory=list)),
    "a path": (Path, ...),
    "a sequence": (Sequence[int], ...),
    "a model": (Nothing, Field(default_factory=Nothing)),
    "a default of other fields": (int, Field(default_factory=len)),
}


@pytest.mark.parametrize("field", CHANGING.values(), ids=CHANGING)
def test_argument_types_whose_values_change_with_time_are_refused(field: Any) -> None:  # noqa: ANN401
    def function(args: BaseModel, run: Run) -> Nothing:  # noqa: ARG001
        return Nothing()

    function.__annotations__["args"] = create_model("Changing", field=field)
    with pytest.raises(RegistrationError, match="in the task"):
        task(name="idle")(function)
    assert "idle" not in backend.task.declared_tasks


@pytest.mark.parametrize("field", STEADY.values(), ids=STEADY)
def test_argument_types_with_stable_values_are_accepted(field: Any) -> None:  # noqa: ANN401
    def function(args: BaseModel, run: Run) -> Nothing:  # noqa: ARG001
        return Nothing()

    function.__annotations__["args"] = create_model("Steady", field=field)
    task(name="idle")(function)


@pytest.mark.parametrize("count", [0, -1, 1001, 40_000, 2.5])
def test_a_number_of_attempts_out_of_range_is_refused(count: int) -> None:
    with pytest.raises(
        RegistrationError, match="max_attempts must be a whole number from 1 to 1000"
    ):
        task(name="idle", max_attempts=count)(do_nothing)


def test_a_task_that_returns_no_model_fails_without_retry() -> None:
    def wrong(args: Nothing, run: Run) -> Nothing:  # noqa: ARG001
        return {}  # type: ignore[return-value]  # the mistake

    task(name="idle")(wrong)
    run = Run("an id", 1, Session())
    with pytest.raises(TaskError, match="returned dict instead of a Pydantic model"):
        call(backend.task.declared_tasks["idle"], Nothing(), run)
