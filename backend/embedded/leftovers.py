"""What is left of embedded servers that were killed: processes, and PostgreSQL's note of one.

Imported where it is needed: psutil is part of the extra `embedded`.
"""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil  # type: ignore[import-untyped]

from backend.embedded.programs import ENDINGS

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

# How long the kernel may take to end processes after SIGKILL.
KILL_SECONDS = 10.0
PROGRAMS = frozenset({"initdb", "postgres", "valkey-server"})


def end_servers(sockets: Path, programs: Collection[str] = PROGRAMS) -> None:
    """End all processes of the servers whose sockets are in this folder, of a random name.

    PostgreSQL's other processes outlive its first one until they notice its end. The next server
    does not start while they have the shared memory.
    """
    # The first process of a server ends the others; only its command has the folder's whole path.
    first = _processes_with(str(sockets), programs)
    for number, seconds in ENDINGS:
        first = _signal(first, number, seconds)
    kill(sockets.name, programs)


def kill(text: str, programs: Collection[str] = PROGRAMS) -> None:
    """Kill the processes of these programs that have the text in their command lines."""
    _signal(_processes_with(text, programs), signal.SIGKILL, KILL_SECONDS)


def forget_ended_postgres(data: Path) -> None:
    """Remove PostgreSQL's note of its process id, unless that process runs in this folder.

    PostgreSQL believes the note while any process has this id: a zombie, or another program after
    the machine's restart. A server that runs is left alone: PostgreSQL says in a line that it does.
    Raises OSError.
    """
    note = data / "postmaster.pid"
    try:
        # Negative where a server for a single user wrote it.
        process = psutil.Process(abs(int(note.read_text().split()[0])))
    except FileNotFoundError:
        return
    except (IndexError, ValueError, OverflowError, psutil.NoSuchProcess):
        process = None  # it is incomplete, or has an id that nobody has
    if process is None or not _serves(process, data):
        note.unlink(missing_ok=True)


def _serves(process: psutil.Process, data: Path) -> bool:
    try:
        if process.name() != "postgres":
            return False
        # Of another user's process the folder is not shown.
        return str(data) in _command(process) or process.cwd() == str(data)
    except (psutil.Error, OSError):  # zombies too
        return False


def _processes_with(text: str, programs: Collection[str]) -> list[psutil.Process]:
    """Return those with the text in their command lines, and those that are just ending."""
    return [
        process
        for process in psutil.process_iter(["name"])
        if process.info["name"] in programs
        # Without a command line it is a zombie, or ends and may still have the shared memory.
        and ((command := _command(process)) == "" or text in command)
        and _runs(process)
    ]


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.AccessDenied:
        return "another user's"
    except (psutil.Error, OSError):
        return ""


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
    """Return whether it has not ended. A zombie has, and may stay one for long."""
    try:
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
