"""`tasks-api up` stopped, killed, started again and reset: what is kept and what is removed."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psycopg2
import pytest

from backend import settings
from tests.support.servers import tree
from tests.support.stack import ROOT, Process
from tests.support.up import STOP_SECONDS, Folder, alive, needs_embedded, program, stop
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = needs_embedded

IN_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "backend", "up"])
"""
MINUTE = 60.0


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_up_stops_in_time_while_valkey_hangs(folder: Folder) -> None:
    with folder.running() as (up, stack):
        stack.post("/tasks/slow?duration=60")
        os.kill(program(up, "valkey-server"), signal.SIGSTOP)
        stop(up, signal.SIGINT)


def test_accepted_tasks_survive_a_restart_of_up(folder: Folder) -> None:
    with folder.running() as (up, stack):
        message = stack.post("/tasks/", {"content": "kept"})
        assert stack.state(message, wait=10)["status"] == "SUCCESS"
        slow = [stack.post("/tasks/slow?duration=7") for _ in range(2)]
        eventually(lambda: stack.state(slow[0])["status"] == "STARTED", 10, "the task has started")
        stop(up, signal.SIGINT)
        assert not Path(folder.data / settings.RUNNING_FILE).exists()
    refused = folder.run("backend", "migrate")
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "tasks-api up" in refused.stderr
    with folder.running() as (_, stack):
        assert stack.state(message)["status"] == "SUCCESS"
        assert httpx.get(f"{stack.url}/messages/").json()["total"] == 1
        assert [stack.state(task, wait=30)["status"] for task in slow] == ["SUCCESS"] * 2
        assert stack.attempt(slow[0]) == 2
        assert stack.scalar("SHOW fsync") == stack.scalar("SHOW synchronous_commit") == "on"


def test_a_worker_beside_up_goes_on_after_a_restart_of_up(folder: Folder) -> None:
    folder.changed["WORKER_QUEUES"] = "short_tasks"  # so only the worker beside runs `slow`
    argv = [sys.executable, "-m", "backend", "worker", "--queues", "tasks"]
    with folder.running() as (up, stack):
        environment = folder.environment()
        with subprocess.Popen(argv, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL) as beside:
            try:
                before = stack.post("/tasks/slow?duration=0")
                assert stack.state(before, wait=20)["status"] == "SUCCESS"
                stop(up, signal.SIGINT)
                with folder.running() as (_, again):
                    after = again.post("/tasks/slow?duration=0")
                    assert again.state(after, wait=20)["status"] == "SUCCESS"
            finally:
                beside.terminate()


def test_up_starts_after_an_earlier_up_was_killed(folder: Folder) -> None:
    up = folder.start()
    stack = folder.stack()
    family = list(tree(up.popen.pid))
    message = stack.post("/tasks/", {"content": "kept"})
    slow = stack.post("/tasks/slow?duration=1")
    up.popen.kill()
    up.popen.wait()
    up.sink.close()
    try:
        with folder.running() as (_, stack):
            # An orderly stop may take this long: a worker waits for a task that lost PostgreSQL.
            eventually(
                lambda: not any(map(alive, family)),
                10,
                "the processes of the killed `up` have ended",
            )
            assert stack.state(message, wait=MINUTE)["status"] == "SUCCESS"
            assert stack.state(slow, wait=MINUTE)["status"] == "SUCCESS"
    finally:
        for pid in filter(alive, family):
            os.kill(pid, signal.SIGKILL)


@contextmanager
def no_trace(up: Process, folder: Folder) -> Iterator[None]:
    """Check that an `up` that is killed in the body leaves no process and no socket folder."""
    family = list(tree(up.popen.pid))
    sockets = folder.urls()["sockets"]
    try:
        yield
        up.popen.wait(STOP_SECONDS)
        eventually(lambda: not any(map(alive, family)), 15, "all processes of `up` have ended")
        eventually(lambda: not Path(sockets).exists(), 5, "the folder of the sockets is gone")
    finally:
        for pid in filter(alive, family):
            os.kill(pid, signal.SIGKILL)
        up.sink.close()


def test_a_killed_up_leaves_no_process_or_socket_folder(folder: Folder) -> None:
    up = folder.start()
    with no_trace(up, folder):
        up.popen.kill()


def test_closing_the_terminal_leaves_no_process_or_socket_folder(folder: Folder) -> None:
    ours, theirs = pty.openpty()
    popen = subprocess.Popen(
        [sys.executable, "-c", IN_TERMINAL],
        cwd=ROOT,
        env=folder.environment(),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown = ""
    with (folder.path / "up.log").open("wb") as sink:
        try:
            while "Tasks API is ready" not in shown:
                shown += os.read(ours, 10_000).decode()
        except OSError:
            pytest.fail(f"it has ended: {shown}")
        with no_trace(Process(popen, folder.path / "up.log", sink), folder):
            os.close(ours)


def test_reset_asks_and_deletes_nothing_without_an_answer(folder: Folder) -> None:
    folder.data.mkdir()
    kept = folder.data / "valkey"
    kept.mkdir()
    refused = folder.run("backend", "reset")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("tasks-api: reset deletes every task and message: add --yes")
    assert refused.stderr.count("\n") == 1
    for answer, left in ((b"n\n", True), (b"y\n", False)):
        ours, theirs = pty.openpty()
        os.write(ours, answer)
        asked = folder.run("backend", "reset", stdin=theirs)
        os.close(theirs)
        os.close(ours)
        assert "Delete every task and message" in asked.stdout
        assert (asked.returncode == 0, kept.exists()) == (not left, left)


def test_reset_deletes_only_the_services_own_data(folder: Folder) -> None:
    with folder.running() as (_, stack):
        stack.post("/tasks/", {"content": "gone"})
        sockets = folder.urls()["sockets"]
        (folder.data / "mine").touch()
    assert not Path(sockets).exists()
    with pytest.raises(psycopg2.OperationalError):
        stack.query("SELECT 1")
    assert folder.run("backend", "reset", "--yes").returncode == 0
    assert [path.name for path in folder.data.iterdir()] == ["mine"]
    (folder.data / "mine").unlink()
    assert folder.run("backend", "reset", "--yes").returncode == 0
    assert not folder.data.exists()
