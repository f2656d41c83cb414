"""`run_task` for tasks that do not use the database: neither servers nor settings are needed."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import AliasChoices, BaseModel, Field, SecretStr

import backend.task
from backend.errors import TaskError
from backend.ids import is_task_id
from backend.task import Run, task
from backend.testing import run_task
from tests.support.stack import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

logger = logging.getLogger(__name__)


class Image(BaseModel):
    """An argument of each kind that JSON treats in its own way."""

    width: int = 8
    anything: Any = None
    secret: SecretStr | None = None
    renamed: str = Field("", alias="other")
    read_only: str = Field("", validation_alias="readOnly")
    moved: str = Field("", validation_alias=AliasChoices("moved", "before"))


class Thumbnail(BaseModel):
    """What the tests compare."""

    text: str = ""
    size: float = 0


@pytest.fixture(autouse=True)
def declared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove what a test declares."""
    monkeypatch.setattr(backend.task, "declared_tasks", dict(backend.task.declared_tasks))


@pytest.fixture
def thumbnail() -> Callable[[Image, Run], Thumbnail]:
    """Give a task that reports, logs and returns what it got."""

    @task(name="thumbnail")
    def thumbnail(args: Image, run: Run) -> Thumbnail:
        run.progress(0, 2)
        run.progress(1, 2)
        logger.info("attempt %d of %s", run.attempt, run.task_id)
        return Thumbnail(text=f"{args.width} {run.task_id} {run.attempt}", size=args.width)

    return thumbnail


def test_a_task_gives_its_value_its_progress_and_its_log(
    thumbnail: Callable[[Image, Run], Thumbnail],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        result = run_task(thumbnail, Image(width=31), task_id="an-id", attempt=3)
    assert result.value == Thumbnail(text="31 an-id 3", size=31)
    assert result.progress == [(0, 2), (1, 2)]
    assert caplog.messages == ["attempt 3 of an-id"]


def test_each_run_has_an_id_of_its_own_and_is_the_first_attempt(
    thumbnail: Callable[[Image, Run], Thumbnail],
) -> None:
    texts = [run_task(thumbnail, Image()).value.text.split() for _ in range(2)]
    assert [number for _, _, number in texts] == ["1", "1"]
    ids = {task_id for _, task_id, _ in texts}
    assert len(ids) == 2
    assert all(map(is_task_id, ids))


def test_a_short_task_has_no_progress_as_in_a_worker() -> None:
    @task(name="short", one_commit=True)
    def short(args: Image, run: Run) -> Thumbnail:  # noqa: ARG001 - a task's signature
        run.progress(1, 2)
        return Thumbnail()

    assert run_task(short, Image()).progress == []


def test_an_error_of_the_function_is_raised_as_it_is() -> None:
    @task(name="broken")
    def broken(args: Image, run: Run) -> Thumbnail:  # noqa: ARG001 - a task's signature
        raise KeyError("url")

    with pytest.raises(KeyError, match="url"):
        run_task(broken, Image())


def test_an_async_task_runs_as_in_a_worker_and_has_no_session() -> None:
    @task(name="fetch")
    async def fetch(args: Image, run: Run) -> Thumbnail:
        await asyncio.sleep(0)
        run.progress(1, 2)
        if args.width == 0:
            run.session.flush()
        return Thumbnail(size=args.width)

    result = run_task(fetch, Image(width=7))
    assert (result.value.size, result.progress) == (7, [(1, 2)])
    with pytest.raises(
        TaskError, match=r"cannot use run\.session or run\.submit \(session\.flush\)"
    ):
        run_task(fetch, Image(width=0))


@pytest.mark.parametrize(
    ("value", "said"),
    [(Thumbnail(size=float("nan")), "NaN or infinite"), ({"size": 1}, "returned dict")],
)
def test_a_value_that_a_worker_refuses_is_refused(value: Any, said: str) -> None:  # noqa: ANN401
    @task(name="wrong")
    def wrong(args: Image, run: Run) -> Thumbnail:  # noqa: ARG001 - a task's signature
        return value  # type: ignore[no-any-return]  # the mistake

    with pytest.raises(TaskError, match=said):
        run_task(wrong, Image())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (Image(anything=(1, 2)), "JSON changes these arguments: anything"),
        (Image(secret=SecretStr("hidden")), "JSON changes these arguments: secret"),
        (Image(anything=object()), "the arguments cannot go over JSON: "),
        (Thumbnail(text="another model"), "JSON changes these arguments: "),
    ],
    ids=lambda value: value.replace(":", "") if isinstance(value, str) else "",
)
def test_arguments_that_would_not_reach_a_worker_are_refused(
    thumbnail: Callable[[Any, Run], Thumbnail],
    arguments: BaseModel,
    said: str,
) -> None:
    with pytest.raises(AssertionError, match=said):
        run_task(thumbnail, arguments)


def test_arguments_with_any_alias_reach_the_task() -> None:
    @task(name="aliases")
    def aliases(args: Image, run: Run) -> Thumbnail:  # noqa: ARG001 - a task's signature
        return Thumbnail(text=args.renamed + args.read_only + args.moved)

    given = {"other": "1", "readOnly": "2", "before": "3"}
    assert run_task(aliases, Image.model_validate(given)).value.text == "123"


def test_the_function_that_run_names_does_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work_of_resize.py").write_text(
        "def resize(args, run):\n    return args.model_copy(update={'width': args.width // 2})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    @task(name="resize", run="work_of_resize:resize")
    def resize(args: Image, run: Run) -> Image:
        raise NotImplementedError

    assert run_task(resize, Image(width=8)).value.width == 4


def test_a_function_that_is_no_task_is_refused() -> None:
    def plain(args: Image, run: Run) -> Thumbnail:
        raise NotImplementedError

    with pytest.raises(TypeError, match=r"plain.* is not a task"):
        run_task(plain, Image())


def test_neither_settings_nor_celery_nor_pytest_is_needed(tmp_path: Path) -> None:
    code = """
import sys
from pydantic import BaseModel
from backend.task import Run, task
from backend.testing import run_task

class Text(BaseModel):
    text: str

@task(name="upper")
def upper(args: Text, run: Run) -> Text:
    return Text(text=args.text.upper())

print(run_task(upper, Text(text="a")).value.text, {"celery", "kombu", "pytest"} & set(sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "DATABASE_URL": "not one"},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.stdout == "A set()\n", done.stderr
