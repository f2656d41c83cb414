"""The line that a task executes: asked for by a signal, answered through a pipe."""

from __future__ import annotations

import faulthandler
import inspect
import os
import queue
import sys
import threading
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from pydantic import BaseModel

from backend.task import Task
from backend.worker import current_line

if TYPE_CHECKING:
    from collections.abc import Iterator

CHILD = 4711


class Nothing(BaseModel):
    """No arguments, and no value."""


def spec_of(module: str) -> Task:
    """Return a task whose function is in a module."""

    def function(args: Nothing, _run: object) -> Nothing:
        return args

    function.__module__ = module
    return Task("a_task", function, Nothing, 1, 60, one_commit=False)


@pytest.fixture(autouse=True)
def pid(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Make this process a child that answers; give its id."""
    monkeypatch.setattr(current_line, "_pipes", {})
    monkeypatch.setattr(current_line, "current_process", lambda: SimpleNamespace(index=CHILD))
    current_line.prepare(CHILD)
    current_line.answer_parent()
    yield os.getpid()
    faulthandler.unregister(current_line.ASK)


def test_neither_the_child_nor_the_parent_waits_for_the_other() -> None:
    pipe = current_line._pipes[CHILD]
    assert not os.get_blocking(pipe.write), "the parent may never read"
    assert not os.get_blocking(pipe._read), "the child may never answer"


def test_the_innermost_line_of_the_tasks_package_is_named_without_folders(pid: int) -> None:
    """This thread waits in the standard library, which the other one asks for."""
    threading.Timer(0.1, partial(current_line.ask, CHILD, pid)).start()
    with pytest.raises(queue.Empty):
        queue.Queue[int]().get(timeout=0.5)
    here = inspect.currentframe()
    assert here is not None
    line = here.f_lineno - 3
    found = current_line.answer(pid, spec_of(__name__))
    assert found == f"tests/unit/test_current_line.py, line {line}"


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("backend.worker.current_line", "backend/worker/current_line.py, line "),
        ("backend.tasks.slow", ""),
        ("queue", ""),
        ("nowhere.at_all", ""),
    ],
)
def test_of_the_service_only_the_functions_own_package_counts(
    pid: int, module: str, said: str
) -> None:
    current_line.ask(CHILD, pid)
    found = current_line.answer(pid, spec_of(module))
    assert found.startswith(said)
    assert bool(found) == bool(said)


def test_a_module_without_a_package_is_named(pid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = SimpleNamespace(__file__=__file__)
    monkeypatch.setitem(sys.modules, "images", alone)
    current_line.ask(CHILD, pid)
    assert current_line.answer(pid, spec_of("images")).startswith("images.py, line ")


def test_only_the_last_question_is_answered_and_once(pid: int) -> None:
    def ask() -> None:
        current_line.ask(CHILD, pid)

    ask()
    current_line.ask(CHILD, pid)
    asked = current_line._pipes[CHILD].take()
    assert "in ask\n" in asked
    assert asked.count("(most recent call first)") == 1
    assert current_line.answer(pid, spec_of(__name__)) == ""
    assert current_line.answer(pid, spec_of(__name__)) == "", "asked no more"


def test_a_child_that_was_not_asked_or_has_ended_gives_no_line(pid: int) -> None:
    assert current_line.answer(pid, spec_of(__name__)) == ""
    gone = os.fork()
    if gone == 0:
        os._exit(0)
    os.waitpid(gone, 0)
    current_line.ask(CHILD, gone)
    assert current_line.answer(gone, spec_of(__name__)) == ""
