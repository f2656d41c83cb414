"""Processes of the contenders: starting, waiting, measuring memory, ending."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 40.0
STOP_SECONDS = 10.0
_PR_SET_PDEATHSIG = 1


class Processes:
    """Processes by name; their output goes to files in `folder`.

    They run in the folder `code`, and import its modules before those that are installed.
    """

    def __init__(self, folder: Path, code: Path = ROOT) -> None:
        self._folder = folder
        self._code = code
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, argv: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start a process. When this process ends for any reason, the new one gets SIGTERM."""
        with self._log(name).open("wb") as log:
            self._running[name] = subprocess.Popen(
                argv,
                cwd=self._code,
                env={
                    **os.environ,
                    "PYTHONUNBUFFERED": "1",
                    "PYTHONPATH": str(self._code),
                    **environment,
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with_parent,  # noqa: PLW1509 - this process has no threads then
            )

    def wait_for_port(self, name: str, port: int) -> None:
        """Return when the process listens. Raises RuntimeError if it ends before."""
        self._eventually(name, lambda: _listens(port), "listens")

    def wait_for_word(self, name: str, word: str) -> None:
        """Return when the process has printed a word. Raises RuntimeError if it ends before."""
        self._eventually(name, lambda: word in self._log(name).read_text(errors="replace"), word)

    def wait_for_end(self, name: str) -> str:
        """Wait until the process ends; return its output. Raises RuntimeError if it failed."""
        failed = self._running.pop(name).wait(START_SECONDS)
        printed = self._log(name).read_text()
        if failed:
            raise RuntimeError(f"{name} failed:\n{printed[-3000:]}")
        return printed

    def ended(self, name: str) -> bool:
        """Return whether the process has ended."""
        return self._running[name].poll() is not None

    def stop(self, name: str) -> None:
        """End a process by SIGTERM, after STOP_SECONDS by SIGKILL; then kill its children."""
        popen = self._running.pop(name)
        pids = list(_tree(popen.pid))
        popen.send_signal(signal.SIGTERM)
        try:
            popen.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            popen.kill()
            popen.wait()
        for pid in pids[1:]:
            # The id may belong to another process now. A process of our session is still ours.
            if _session(pid) == popen.pid:
                os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """End all processes."""
        for name in list(self._running):
            self.stop(name)

    def folders(self) -> set[Path]:
        """Return the folders that the processes and their children run in."""
        running = [pid for popen in self._running.values() for pid in _tree(popen.pid)]
        return {Path(f"/proc/{pid}/cwd").readlink() for pid in running}

    def memory(self) -> dict[str, float]:
        """Return the memory of each process in MiB, as PSS: shared memory counts once."""
        found: dict[str, float] = {}
        for name, popen in self._running.items():
            for number, pid in enumerate(_tree(popen.pid)):
                found[f"{name} {number}" if number else name] = _pss(pid)
        return found

    def _eventually(self, name: str, condition: object, what: str) -> None:
        def done() -> bool:
            if self._running[name].poll() is not None:
                log = self._log(name).read_text(errors="replace")
                raise RuntimeError(f"{name} ended:\n{log[-3000:]}")
            return bool(condition())  # type: ignore[operator]  # any callable

        eventually(done, START_SECONDS, f"{name}: {what}")

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _tree(pid: int) -> Iterator[int]:
    """Yield the ids of a process and of all its descendants."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            below = children.read_text().split()
        except OSError:  # the thread has just ended
            continue
        for child in below:
            yield from _tree(int(child))


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def _pss(pid: int) -> float:
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    for line in rollup.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0
