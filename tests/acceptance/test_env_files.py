"""A task's own settings: the values of `.env` and `backend/.env` are in every environment."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.ports import free_port
from tests.support.stack import ROOT
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

TASK = """
import json, os
from pydantic import BaseModel
from backend.task import Run, task
ours = {name: value for name, value in os.environ.items() if name.startswith("OURS_")}
print("SEEN", json.dumps(ours), flush=True)
class Empty(BaseModel): pass
@task(name="ours", max_attempts=1, time_limit=1)
def ours(args: Empty, run: Run) -> Empty:
    return args
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a copy of the project with a task that prints its environment when it is imported."""
    folder = tmp_path_factory.mktemp("project")
    ignored = shutil.ignore_patterns("__pycache__", ".env")
    shutil.copytree(ROOT / "backend", folder / "backend", ignore=ignored)
    (folder / "backend" / "tasks" / "ours.py").write_text(TASK)
    (folder / ".env").write_text(
        f"OURS_A=root\nOURS_B='two words'\nOURS_C=\nAPI_PORT={free_port()}\n"
        f"FLOWER_PORT={free_port()}\nDATA_DIR={folder / 'data'}\n"
        "DATABASE_URL=postgresql+psycopg2://nobody@127.0.0.1:9/none\n"
        "CELERY_BROKER_URL=amqp://nobody:nothing@127.0.0.1:9//\n"
    )
    (folder / "backend" / ".env").write_text("OURS_A=backend\nOURS_D=backend\nOURS_E=backend\n")
    return folder


@pytest.fixture
def environment(project: Path) -> dict[str, str]:
    mine = {"DATABASE_URL", "CELERY_BROKER_URL", "API_PORT", "FLOWER_PORT", "DATA_DIR"}
    known = {name: value for name, value in os.environ.items() if name not in mine}
    return {**known, "PYTHONPATH": str(project), "OURS_E": "environment"}


@pytest.mark.parametrize(
    "command",
    ["backend up", "backend api", "backend worker", "backend relay", "celery -A backend worker"],
)
def test_a_task_finds_the_env_file_settings_in_its_environment(
    project: Path, environment: dict[str, str], tmp_path: Path, command: str
) -> None:
    output = tmp_path / "output"
    with output.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", *command.split()],
            cwd=project,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        eventually(lambda: "SEEN" in output.read_text(), 30, "the process has imported the tasks")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    line = next(line for line in output.read_text().splitlines() if line.startswith("SEEN"))
    assert json.loads(line.removeprefix("SEEN ")) == {
        "OURS_A": "root",
        "OURS_B": "two words",
        "OURS_C": "",
        "OURS_D": "backend",
        "OURS_E": "environment",
    }
