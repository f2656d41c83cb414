"""`make dev`: a change of a Python file restarts API and worker."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

import httpx

from tests.support.up import Folder, needs_embedded
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.stack import Stack

pytestmark = needs_embedded

CODE = """
import time

from pydantic import BaseModel

from backend.task import Run, task


class Text(BaseModel):
    text: str = ""


@task(name="edited")
def edited(args: Text, run: Run) -> Text:
    while args.text == "forever":
        time.sleep(0.1)
    return Text(text="VERSION")
"""


def write(package: Path, version: str, code: str = CODE) -> None:
    (package / "edited.py").write_text(code.replace("VERSION", version))


def value(stack: Stack) -> Any:  # noqa: ANN401 - JSON
    """Return what a new task gives; None while the API is restarting."""
    try:
        answer = httpx.post(f"{stack.url}/tasks/edited", json={}, timeout=5)
        task_id = answer.json()["task_id"]
        state = httpx.get(f"{stack.url}/tasks/{task_id}?wait=5", timeout=10).json()
        return state["result"]["text"] if state["status"] == "SUCCESS" else None
    except httpx.TransportError:
        return None


def test_a_change_restarts_api_and_worker_and_hands_running_tasks_back(tmp_path: Path) -> None:
    package = tmp_path / "edited_tasks"
    package.mkdir()
    (package / "__init__.py").write_text("")
    write(package, "first")
    folder = Folder(tmp_path, options=("--reload",))
    folder.changed = {
        "TASK_MODULES": "backend.tasks,edited_tasks",
        "PYTHONPATH": str(tmp_path),
        "STOP_SECONDS": "0",
    }
    with folder.running() as (up, stack):
        assert value(stack) == "first"
        running = stack.post("/tasks/edited", {"text": "forever"})
        eventually(lambda: stack.state(running)["status"] == "STARTED", 10, "it runs")
        write(package, "second", CODE.replace('args.text == "forever"', "False"))
        eventually(lambda: "edited.py has changed" in up.log, 10, "it is noticed")
        began = time.monotonic()
        eventually(lambda: value(stack) == "second", 30, "the new code runs")
        assert time.monotonic() - began < 15
        state: Any = stack.state(running, wait=20)
        assert (state["status"], state["result"]["text"]) == ("SUCCESS", "second")
        rows = "SELECT attempt, max_attempts FROM tasks WHERE id = %s"
        assert stack.query(rows, running) == [(2, 6)], "no attempt is used up"
        assert len(re.findall(r"flower started", up.log)) == 1

        write(package, "", "this is no Python")
        eventually(lambda: "SyntaxError" in up.log, 20, "the error is shown")
        write(package, "third")
        eventually(lambda: value(stack) == "third", 30, "the mended code runs")
