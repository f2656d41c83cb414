"""Terminals that cannot show every character: the others are printed as escapes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import pytest

from tests.support.stack import ROOT
from tests.support.up import Folder, needs_embedded, servers

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.stack import Stack

pytestmark = needs_embedded

MINUTE = 60.0
TERMINALS = {
    "Latin-1": {"PYTHONIOENCODING": "latin-1"},
    "ASCII": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}
TEXT = "Grüße … 漢字 \U0001f600"


@pytest.mark.parametrize("terminal", TERMINALS)
def test_any_text_is_logged_on_any_terminal(odd_stack: Stack, terminal: str) -> None:
    stack = odd_stack
    stack.environment = TERMINALS[terminal]
    stack.start("api")
    worker = stack.start("worker")
    task_id = stack.post("/tasks/say", {"text": TEXT})
    assert stack.state(task_id, wait=MINUTE)["result"] == {"error": TEXT}
    log = worker.output.read_bytes()
    # JSON escapes characters that are not ASCII.
    assert b"logged " + json.dumps(TEXT)[1:-1].encode() in log
    assert b"printed " + TEXT.encode(terminal.lower(), "backslashreplace") in log
    assert b"UnicodeEncodeError" not in log
    assert b"Traceback" not in log


@pytest.mark.parametrize("terminal", TERMINALS)
def test_every_command_prints_on_any_terminal(terminal: str, tmp_path: Path) -> None:
    environment = {**os.environ, **TERMINALS[terminal], "DATA_DIR": str(tmp_path / "Ærø …")}
    environment["LOG_LEVEL"] = "漢字"
    for command in ("--help", "up"):
        done = subprocess.run(
            [sys.executable, "-m", "backend", command],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            check=False,
        )
        assert b"Traceback" not in done.stderr


def test_up_starts_on_a_latin_1_terminal_with_a_long_tmpdir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # TMPDIR is too long for the path of a socket.
    odd = tmp_path / ("ä 漢" * 40)
    (odd / "tmp").mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(odd / "tmp"))
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    folder = Folder(odd)
    with folder.running() as (up, stack):
        task_id = stack.post("/tasks/", {"content": TEXT})
        assert stack.state(task_id, wait=MINUTE)["status"] == "SUCCESS"
    log = up.output.read_bytes()
    assert b"UnicodeEncodeError" not in log
    assert b"Traceback" not in log


def test_the_socket_path_may_have_spaces_and_special_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(prefix="ö 漢'%41@? ", dir="/tmp") as short:
        monkeypatch.setenv("TMPDIR", short)
        folder = Folder(tmp_path)
        process = servers(folder)
        assert folder.urls()["sockets"].startswith(short)
        environment = {
            **folder.environment(),
            "DATABASE_URL": folder.urls()["database_url"],
            "CELERY_BROKER_URL": folder.urls()["celery_broker_url"],
        }
        code = "from backend.broker.connection import connect; connect(timeout=5).close()"
        for command in (["-m", "backend", "migrate"], ["-c", code]):
            done = subprocess.run(
                [sys.executable, *command],
                cwd=ROOT,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert (done.returncode, done.stderr) == (0, "")
        process.communicate(timeout=20)
