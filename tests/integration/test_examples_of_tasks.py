"""The examples for authors of tasks in CONTRIBUTING: a test of a task, a renamed argument."""

from __future__ import annotations

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError

import pytest

import backend.task
import backend.tasks
from backend.errors import TaskError
from backend.task import Run, task
from backend.testing import run_task
from tests.support.recipes import (
    example_call,
    example_rename,
    example_submission,
    example_task,
    example_test,
)
from tests.support.stack import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.documents import Block


MODULE = "backend.tasks.word_count"


@pytest.fixture(autouse=True)
def word_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put the example task into the package of tasks; remove afterwards what was declared."""
    (tmp_path / "word_count.py").write_text(example_task().text)
    monkeypatch.setattr(backend.tasks, "__path__", [*backend.tasks.__path__, str(tmp_path)])
    before = dict(backend.task.declared_tasks)
    yield
    backend.task.declared_tasks.clear()
    backend.task.declared_tasks.update(before)
    sys.modules.pop(MODULE, None)


@pytest.mark.usefixtures("service")
def test_the_example_of_a_test_passes() -> None:
    scope: dict[str, Any] = {}
    exec(example_test().text, scope)  # this code is our own
    tests = [value for name, value in scope.items() if name.startswith("test_")]
    assert len(tests) == 1
    tests[0]()


def test_a_renamed_argument_has_both_names_in_json_and_the_new_one_in_the_openapi_document() -> (
    None
):
    scope: dict[str, Any] = {"__name__": __name__}
    exec(example_rename().text, scope)  # this code is our own
    page = scope["Page"]
    for text in ('{"source": "x"}', '{"url": "x"}', '{"url": "y", "source": "x"}'):
        assert page.model_validate_json(text).source == "x"
    assert list(page.model_json_schema()["properties"]) == ["source"]

    def fetch(args: Any, run: Run) -> Any:  # noqa: ANN401, ARG001 - the example's model
        return args

    fetch.__annotations__ = {"args": page, "run": Run, "return": page}
    task(name="fetch")(fetch)
    assert run_task(fetch, page(source="x")).value.source == "x"


class Page(BaseHTTPRequestHandler):
    """A page without content; its address is the status of the answer."""

    def do_GET(self) -> None:
        self.send_response(int(self.path[1:]))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def page() -> Iterator[str]:
    """Serve pages; return the beginning of their addresses."""
    with HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join(10)


@pytest.fixture
def call() -> Iterator[dict[str, Any]]:
    """Declare the example's task; return what its module has."""
    module = ModuleType("an_example")
    sys.modules["an_example"] = module  # the declaration looks up names of annotations there
    exec(example_call().text, module.__dict__)  # this code is our own
    yield module.__dict__
    del sys.modules["an_example"]


def test_the_example_of_a_call_reads_a_page(call: dict[str, Any], page: str) -> None:
    assert run_task(call["check_link"], call["Link"](url=f"{page}204")).value.status == 204


@pytest.mark.parametrize(("status", "error"), [("404", TaskError), ("503", HTTPError)])
def test_the_example_of_a_call_tries_again_only_after_an_error_of_the_server(
    call: dict[str, Any], page: str, status: str, error: type[Exception]
) -> None:
    with pytest.raises(error, match=status):
        run_task(call["check_link"], call["Link"](url=page + status))


@pytest.mark.parametrize("example", [example_task, example_call, example_submission])
def test_the_examples_of_tasks_pass_the_linter(example: Callable[[], Block]) -> None:
    argv = [sys.executable, "-m", "ruff", "check", "--stdin-filename", "backend/tasks/new.py", "-"]
    found = subprocess.run(
        argv, input=example().text, capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert found.returncode == 0, found.stdout
