"""The demo: it ends well, counts what is there, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil  # type: ignore[import-untyped]  # nobody publishes stubs
import pytest

from tests.acceptance.test_embedded import pytestmark as needs
from tests.support.stack import ROOT
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [*needs, pytest.mark.timeout(300)]


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    with (folder / "said").open("w") as said:
        return subprocess.Popen(
            [sys.executable, "examples/demo.py", *arguments],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(folder)},
            stdout=said,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


def left(folder: Path) -> list[str]:
    """Return what the demo has left: files, and processes whose command or folder names its own."""
    files = [path.name for path in folder.iterdir() if path.name != "said"]
    running = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        words = [*(process.info["cmdline"] or ()), (process.info["environ"] or {}).get("DATA_DIR")]
        if any(str(folder) in (word or "") for word in words):
            running.append(str(process))
    return files + running


def test_all_tasks_end_once_though_a_worker_the_broker_and_postgresql_are_killed(
    tmp_path: Path,
) -> None:
    demo = start(tmp_path, "--tasks", "400")
    try:
        code = demo.wait(240)
    finally:
        demo.send_signal(signal.SIGTERM)
        demo.wait(60)
    said = (tmp_path / "said").read_text()
    assert "accepted 400, ended 400, lost 0, twice 0" in said, said
    assert said.count("** ") == 3
    assert code == 0
    assert left(tmp_path) == []


def test_an_interrupted_demo_leaves_nothing(tmp_path: Path) -> None:
    demo = start(tmp_path, "--tasks", "400")
    try:
        eventually(lambda: "accepted" in (tmp_path / "said").read_text(), 120, "it posts")
    finally:
        demo.send_signal(signal.SIGINT)
    assert demo.wait(60) == 130
    assert left(tmp_path) == []
