"""Subprocesses of tasks: none outlives its attempt."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import celery
import pytest

from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.stack import Stack

MINUTE = 60.0


def processes_with(entry: str, text: bytes) -> list[int]:
    """Return the ids of processes whose /proc file `entry` contains `text`."""
    found = []
    for folder in Path("/proc").iterdir():
        with suppress(OSError):  # the process has ended
            if folder.name.isdecimal() and text in (folder / entry).read_bytes():
                found.append(int(folder.name))
    return found


def running(file: Path) -> list[int]:
    """Return the ids of the processes that were started to create a file."""
    return processes_with("cmdline", os.fsencode(file))


def stop(stack: Stack, _task_id: str) -> None:
    assert stack.stop("worker") == 0


def kill(stack: Stack, _task_id: str) -> None:
    stack.kill("worker")


def kill_child(stack: Stack, _task_id: str) -> None:
    for child in stack["worker"].children():
        os.kill(child, signal.SIGKILL)


def revoke(stack: Stack, task_id: str) -> None:
    celery.Celery(broker=stack.broker_url).control.revoke(task_id, terminate=True)


def supersede(stack: Stack, task_id: str) -> None:
    stack.query("UPDATE tasks SET state = 'REVOKED' WHERE id = %s RETURNING 1", task_id)


ENDS: dict[str, Callable[[Stack, str], Any]] = {
    "SIGTERM to the worker": stop,
    "kill -9 of the worker": kill,
    "kill -9 of its process": kill_child,
    "a revoke": revoke,
    "an attempt that is no longer current": supersede,
    "its time limit": lambda _stack, _task_id: None,
}


@pytest.mark.parametrize("own_session", [False, True], ids=["same session", "own session"])
@pytest.mark.parametrize("end", ENDS)
def test_a_subprocess_ends_with_its_attempt(
    odd_stack: Stack, tmp_path: Path, end: str, *, own_session: bool
) -> None:
    stack, file = odd_stack, tmp_path / "effect"
    stack.start("api")
    stack.start("worker", environment={"WORKER_CONCURRENCY": "1"})
    overrun = "_and_overrun" if end == "its time limit" else ""
    command = {"file": str(file), "seconds": 20, "own_session": own_session}
    task_id = stack.post(f"/tasks/start_subprocess{overrun}", command)
    eventually(lambda: len(running(file)) > 1, 10, "the subprocess runs")
    ENDS[end](stack, task_id)
    eventually(lambda: not running(file), 8, "the subprocess has ended")
    assert not file.exists()


def test_a_worker_that_ends_leaves_no_subprocess(odd_stack: Stack) -> None:
    stack = odd_stack
    stack.start("worker")
    assert len(processes_with("environ", stack.database_url.encode())) > 1
    stack.kill("worker")
    eventually(
        lambda: processes_with("environ", stack.database_url.encode()) == [],
        5,
        "the worker's children and its cleaner have ended",
    )


def test_a_worker_continues_after_its_cleaner_was_killed(odd_stack: Stack, tmp_path: Path) -> None:
    stack = odd_stack
    worker = stack.start("worker", environment={"WORKER_CONCURRENCY": "1"})
    stack.start("api")
    ours = [worker.popen.pid, stack["api"].popen.pid]
    started = processes_with("environ", stack.database_url.encode())
    (cleaner,) = [pid for pid in started if os.getsid(pid) == pid and pid not in ours]
    os.kill(cleaner, signal.SIGKILL)
    kill_child(stack, "")
    file = tmp_path / "effect"
    command = {"file": str(file), "seconds": 0}
    task_id = stack.post("/tasks/start_subprocess", command)
    assert stack.state(task_id, wait=MINUTE)["status"] == "SUCCESS"
    assert file.exists()
