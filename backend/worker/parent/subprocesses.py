"""Kills the subprocesses of tasks when their pool process ends.

Each pool process leads a process group and sets a variable in its environment, which subprocesses
inherit. When the pool process has ended, its group is killed and, on Linux, every process with that
variable. When the worker itself has ended, even by `kill -9`, a small cleaner process does this.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
import time
from contextlib import suppress
from functools import partial
from multiprocessing import process
from pathlib import Path
from typing import TYPE_CHECKING

from billiard.common import _shutdown_cleanup  # type: ignore[attr-defined]  # not in the stubs

from backend import cleaner

if TYPE_CHECKING:
    from collections.abc import Iterable

# The environment variables of a worker, and of one of its pool processes.
WORKER_VARIABLE = "TASKS_API_WORKER"
POOL_PROCESS_VARIABLE = "TASKS_API_POOL_PROCESS"
# How many times to look for processes with a variable: one that was killed stays visible for a
# moment, and may have started another.
LOOKS = 10

# Signals that end a process, unless it handles them.
_END = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
# multiprocessing's object for the worker's parent process.
_MAIN_PROCESS = process.current_process()

# The write end of the pipe to the cleaner; None in a process without a cleaner.
_to_cleaner: int | None = None


def mark_worker() -> None:
    """Set the variable of this worker, which its pool processes inherit."""
    os.environ[WORKER_VARIABLE] = secrets.token_hex(8)


def start_cleaner() -> None:
    """Fork the cleaner of this worker; call it before there are threads."""
    global _to_cleaner
    mark_worker()
    _, _to_cleaner = cleaner.start(_clean_after_worker)


def register_pool_process() -> None:
    """Make this pool process the leader of a group that the cleaner knows of."""
    global _to_cleaner  # noqa: PLW0603 - one cleaner a process
    # A SIGTERM to the worker's group must reach the parent only, which lets running tasks end or
    # hands them back.
    os.setpgid(0, 0)
    os.environ[POOL_PROCESS_VARIABLE] = _value_of(os.getpid())
    if _to_cleaner is not None:
        with suppress(OSError):  # the cleaner was killed
            os.write(_to_cleaner, b"+%d\n" % os.getpid())
        # The cleaner waits until every process has closed the pipe; only the parent keeps it open.
        os.close(_to_cleaner)
        _to_cleaner = None
    # billiard makes it daemonic, and multiprocessing lets no daemonic process start others. Those
    # that a task starts are in its group.
    process._current_process = _MAIN_PROCESS  # type: ignore[attr-defined]  # noqa: SLF001 - no public way
    os.register_at_fork(
        before=partial(signal.pthread_sigmask, signal.SIG_BLOCK, _END),
        after_in_parent=partial(signal.pthread_sigmask, signal.SIG_UNBLOCK, _END),
        after_in_child=_restore_signals,
    )


def _restore_signals() -> None:
    """Let signals end a process that a task has forked: drop the pool process's handlers.

    The signals were blocked during the fork, because Python loses a signal whose handler changes
    before it is called.
    """
    for number in _END:
        if signal.getsignal(number) is _shutdown_cleanup:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _END)


def kill_with_subprocesses(pid: int) -> None:
    """Kill what is left of a pool process that has ended, and the subprocesses of its task."""
    _kill_group(pid)
    _kill_all_with(POOL_PROCESS_VARIABLE, _value_of(pid))
    if _to_cleaner is not None:
        with suppress(OSError):  # the cleaner was killed
            os.write(_to_cleaner, b"-%d\n" % pid)


def kill_all(pids: Iterable[int]) -> None:
    """Kill all pool processes of this worker and the subprocesses of their tasks."""
    for pid in pids:
        _kill_group(pid)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)  # it may not lead a group yet
    _kill_all_with(WORKER_VARIABLE, os.environ[WORKER_VARIABLE])


def _value_of(pid: int) -> str:
    return f"{os.environ[WORKER_VARIABLE]}.{pid}"


def _clean_after_worker(reading: int) -> None:
    """Wait until the worker has ended; then kill what its pool processes have started."""
    pool_processes: set[int] = set()
    with os.fdopen(reading) as lines:
        for line in lines:
            change = pool_processes.add if line[0] == "+" else pool_processes.discard
            change(int(line[1:]))
    for pid in pool_processes:
        _kill_group(pid)
    _kill_all_with(WORKER_VARIABLE, os.environ[WORKER_VARIABLE])


def _kill_group(pid: int) -> None:
    if pid <= 1:  # our own group, or all that a container runs: no pool process has such a number
        raise ValueError(f"{pid} is not a pool process")
    with suppress(ProcessLookupError, PermissionError):  # macOS refuses a dead group
        os.killpg(pid, signal.SIGKILL)


def _kill_all_with(name: str, value: str) -> None:
    """Kill every process that was started with a variable in its environment."""
    if sys.platform != "linux":
        return
    wanted = f"{name}={value}".encode()
    for _ in range(LOOKS):
        found = _processes_with(wanted)
        if not found:
            return
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _processes_with(wanted: bytes) -> list[int]:
    """Return the ids of the processes, other than this one, that were started with a variable."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal() or int(folder.name) == os.getpid():
            continue
        with suppress(OSError):  # it has ended, or is another user's
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found
