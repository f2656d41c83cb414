"""Tasks of another package: TASK_MODULES and `run`."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from backend.settings import SettingsError, read
from tests.support.recipes import first_task

if TYPE_CHECKING:
    from pathlib import Path

DECLARATION = """
from pydantic import BaseModel
from backend.task import Run, task

class Size(BaseModel):
    width: int

@task(name="resize", run="acme.resizing:resize")
def resize(args: Size, run: Run) -> Size:
    \"""Resize an image.\"""
    raise NotImplementedError
"""
IMPLEMENTATION = """
from backend.task import Run

def resize(args, run: Run):
    return args.model_copy(update={"width": args.width // 2})
"""
# Never connected to.
SERVERS = {
    "DATABASE_URL": "postgresql+psycopg2://nobody@127.0.0.1:1/nothing",
    "CELERY_BROKER_URL": "redis://127.0.0.1:1/0",
}

OURS_AND_ACME = "backend.tasks,acme.tasks"


@pytest.fixture
def acme(tmp_path: Path) -> Path:
    """Make a package with a module of tasks and a module with their implementation."""
    for name, text in {
        "__init__": "",
        "tasks/__init__": "",
        "tasks/images": DECLARATION,
        "resizing": IMPLEMENTATION,
    }.items():
        file = tmp_path / "acme" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path


def python(code: str, folder: Path, modules: str) -> str:
    """Run code in a new process; return its output, or the last line of its error."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **SERVERS, "PYTHONPATH": str(folder), "TASK_MODULES": modules},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def test_tasks_of_another_package_are_found_in_addition_to_ours(acme: Path) -> None:
    found = python(
        "from backend.registry import names; print(names())", acme, "backend.tasks, acme.tasks"
    )
    assert "insert_message, resize, slow" in found


def test_the_example_task_of_the_readme_runs(acme: Path) -> None:
    (acme / "acme" / "tasks" / "images.py").write_text(first_task().text)
    code = """
from backend.registry import registered
task = registered()["count_words"]
print(task.function(task.arguments(text="to be or not to be"), None))
"""
    assert python(code, acme, OURS_AND_ACME) == "words=6"


def test_the_implementation_module_is_imported_only_when_needed(acme: Path) -> None:
    code = """
import sys
from backend.registry import registered
task = registered()["resize"]
print("acme.resizing" in sys.modules, task.arguments.__name__, task.result.__name__)
print(task.function(task.arguments(width=8), None))
"""
    found = python(code, acme, "backend.tasks,acme.tasks.images")
    assert found == "False Size Size\nwidth=4"


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("raise OSError('no camera')", "cannot be imported: OSError: no camera"),
        ("", "cannot be imported: AttributeError: "),
        ("def resize(args): ...", "task 'resize': its parameters must be (args, run)"),
    ],
)
def test_a_worker_does_not_start_without_the_implementation_module(
    acme: Path, broken: str, said: str
) -> None:
    (acme / "acme" / "resizing.py").write_text(broken)
    code = "import sys; sys.argv = ['tasks-api', 'worker']; from backend.cli import main; main()"
    found = python(code, acme, OURS_AND_ACME)
    assert found.startswith("tasks-api: ")
    assert said in found


def test_flower_and_the_api_start_without_the_implementation_module(acme: Path) -> None:
    (acme / "acme" / "resizing.py").write_text("raise OSError")
    assert python("import backend.worker; print('fine')", acme, OURS_AND_ACME) == "fine"


def test_the_main_module_of_a_package_of_tasks_is_not_imported(acme: Path) -> None:
    (acme / "acme" / "tasks" / "__main__.py").write_text("raise SystemExit(3)")
    found = python("from backend.registry import names; print(names())", acme, OURS_AND_ACME)
    assert "resize" in found


def test_a_module_that_ends_the_process_is_named_in_one_line(acme: Path) -> None:
    (acme / "acme" / "tasks" / "images.py").write_text("raise SystemExit(3)")
    found = python("from backend.registry import names; print(names())", acme, OURS_AND_ACME)
    assert "acme.tasks.images cannot be imported: SystemExit: 3" in found


def test_a_missing_module_is_named_in_one_line(tmp_path: Path) -> None:
    found = python("from backend.registry import names; names()", tmp_path, "backend.tasks,nothing")
    assert "nothing cannot be imported: ModuleNotFoundError" in found


@pytest.mark.parametrize("value", ["acme.tasks", "backend.tasks,", "backend.tasks acme", "a-b"])
def test_names_that_cannot_be_modules_are_refused(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("TASK_MODULES", value)
    with pytest.raises(SettingsError, match="TASK_MODULES must be names of modules"):
        read()
