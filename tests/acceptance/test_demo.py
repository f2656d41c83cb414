"""The demo: it succeeds, reports correct counts, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import psutil  # type: ignore[import-untyped]  # nobody publishes stubs
import pytest

from tests.support.stack import ROOT
from tests.support.up import needs_embedded
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [*needs_embedded, pytest.mark.timeout(300)]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder with a short path: the path of a socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


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
    """Return the files and processes that the demo has left."""
    files = [path.name for path in folder.iterdir() if path.name != "said"]
    running = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        words = [*(process.info["cmdline"] or ()), (process.info["environ"] or {}).get("DATA_DIR")]
        if any(str(folder) in (word or "") for word in words):
            running.append(str(process))
    return files + running


def test_all_tasks_end_once_after_kills_of_worker_broker_and_postgresql(
    folder: Path,
) -> None:
    demo = start(folder, "--tasks", "400")
    try:
        code = demo.wait(240)
    finally:
        demo.send_signal(signal.SIGTERM)
        demo.wait(60)
    said = (folder / "said").read_text()
    assert "accepted 400, ended 400, lost 0, twice 0" in said, said
    assert said.count("** ") == 3
    assert code == 0
    assert left(folder) == []


def test_an_interrupted_demo_leaves_no_files_or_processes(folder: Path) -> None:
    demo = start(folder, "--tasks", "400")
    try:
        eventually(
            lambda: "accepted" in (folder / "said").read_text(), 120, "the demo has accepted tasks"
        )
    finally:
        demo.send_signal(signal.SIGINT)
    assert demo.wait(60) == 130
    assert left(folder) == []
