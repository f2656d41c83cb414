"""Cleans up after embedded servers that were killed: processes, and PostgreSQL's pid file.

Imported where it is needed: psutil is part of the extra `embedded`.
"""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil  # type: ignore[import-untyped]  # it has no types

from backend.errors import CannotRun
from backend.local.programs import ENDINGS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

# How long the kernel may take to end processes after SIGKILL.
KILL_SECONDS = 10.0
PROGRAMS = frozenset({"initdb", "postgres", "valkey-server"})


def end_servers(
    sockets: Path,
    programs: Collection[str] = PROGRAMS,
    endings: Sequence[tuple[signal.Signals, float]] = ENDINGS,
) -> None:
    """End all processes of the servers whose sockets are in this folder; its name is random.

    PostgreSQL's other processes run on after its first one has ended, until they notice it. The
    next server does not start while they have the shared memory. Raises CannotRun if a process does
    not end.
    """

    def ours(words: Sequence[str]) -> bool:
        return any(sockets.name in word for word in words)

    # The first process of a server ends the others; only its command has the folder's whole path.
    first = _processes(lambda words: any(str(sockets) in word for word in words), programs)
    for number, seconds in endings:
        first = _signal(first, number, seconds)
    _kill(_processes(ours, programs))


def kill_with_argument(argument: str, seconds: float = KILL_SECONDS) -> None:
    """Kill the servers' processes that have this argument. Raises CannotRun if one does not end."""
    _kill(_processes(lambda words: argument in words, PROGRAMS), seconds)


def _kill(processes: Sequence[psutil.Process], seconds: float = KILL_SECONDS) -> None:
    if left := _signal(processes, signal.SIGKILL, seconds):
        # A second server would write to the same files.
        raise CannotRun(
            f"a process of the last start does not end ({left[0].name()}, pid {left[0].pid}):"
            " check the disk, or restart the machine"
        )


def forget_ended_postgres(data: Path) -> None:
    """Remove PostgreSQL's pid file, unless the process runs in this folder.

    PostgreSQL refuses to start while any process has this id: a zombie, or another program after
    the machine's restart. If the server does run, the file is kept, and the next start fails with
    PostgreSQL's own message. Raises OSError.
    """
    note = data / "postmaster.pid"
    try:
        # Negative where a server for a single user wrote it.
        process = psutil.Process(abs(int(note.read_text().split()[0])))
    except FileNotFoundError:
        return
    except (IndexError, ValueError, OverflowError, psutil.NoSuchProcess):
        process = None  # it is incomplete, or has an id that no process has
    if process is None or not _serves(process, data):
        note.unlink(missing_ok=True)


def _serves(process: psutil.Process, data: Path) -> bool:
    try:
        if process.name() != "postgres":
            return False
        # The folder of another user's process cannot be read.
        return str(data) in " ".join(process.cmdline()) or process.cwd() == str(data)
    except (psutil.Error, OSError):  # zombies too
        return False


def _processes(
    ours: Callable[[Sequence[str]], bool], programs: Collection[str]
) -> list[psutil.Process]:
    """Return the processes of these programs for whose command line `ours` returns true."""
    return [
        process
        for process in psutil.process_iter(["name"])
        if process.info["name"] in programs and ours(_words(process))
    ]


def _words(process: psutil.Process) -> list[str]:
    """Return the words of a process's command line; empty if it has ended.

    A process has none for a moment when it starts or ends, but may have the shared memory. So this
    waits, at most a second.
    """
    deadline = time.monotonic() + 1.0
    while _runs(process) and time.monotonic() < deadline:
        try:
            if words := process.cmdline():
                return list(words)
        except psutil.AccessDenied:
            return []  # another user's
        except (psutil.Error, OSError):
            pass  # it has just ended
        time.sleep(0.02)
    return []


def _signal(
    processes: Sequence[psutil.Process], number: signal.Signals, seconds: float
) -> list[psutil.Process]:
    """Signal processes and wait for their ends; return those that still run after `seconds`."""
    for process in processes:
        with suppress(psutil.Error):
            process.send_signal(number)
    deadline = time.monotonic() + seconds
    while (left := list(filter(_runs, processes))) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def _runs(process: psutil.Process) -> bool:
    """Return whether a process has not ended. A zombie has ended, though it may stay for long."""
    try:
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
