"""Private PostgreSQL, RabbitMQ and Redis servers for the tests.

Each has a directory and ports of its own, listens on 127.0.0.1 only, and leaves the
machine's own servers alone. None needs more than Debian's package of it. All are
gone, files included, after `close()`, at exit, and when the tests are killed.
"""

import atexit
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

import sqlalchemy as sa

from .ports import free_port as free_port
from .waiting import eventually

# Seconds a server may take to start or to stop.
_PATIENCE = 60.0

# Ends its arguments' process group (2, with signal 1) and directory (3) when the
# tests' process is gone without having ended this one: its input ends then.
_HEIR = """
read -r _ && exit
kill -s "$1" -- "-$2"
sleep 1
kill -s KILL -- "-$2"
rm -rf "$3"
"""


class Missing(RuntimeError):
    """A program the tests need is not installed; the message says which package."""


class _Server:
    """One server process in a session of its own, and its directory."""

    # How to end it at once, without leaving anything behind in the system.
    _end = signal.SIGKILL

    def __init__(self, name: str, user: str | None = None) -> None:
        self.name = name
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix=f"test-{name}-"))
        self._user = user
        if user is not None:
            shutil.chown(self.directory, user)
        self._process: subprocess.Popen[bytes] | None = None
        self._heirs: dict[int, subprocess.Popen[bytes]] = {}
        atexit.register(self.close)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start it on the state it has, and return when it serves.

        Does nothing if it runs. Raises RuntimeError with the end of its log if it
        ends instead, and AssertionError if it does not serve after a minute.
        """
        if not self.running:
            self._process = self._spawn(*self._command())
            eventually(self._started, _PATIENCE, f"{self.name} serves")

    def freeze(self) -> None:
        """Stop all its processes (SIGSTOP): it keeps its connections, in silence."""
        # From the root on, so that what has been looked at starts no more children.
        for pid in _tree(self._pid):
            _signal(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let its processes go on after `freeze()`; else nothing."""
        for pid in _tree(self._pid):
            _signal(pid, signal.SIGCONT)

    def close(self) -> None:
        """Stop it for good and remove its files; idempotent."""
        atexit.unregister(self.close)
        self._stop(self._end)
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def running(self) -> bool:
        """Whether its process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """What it has logged since its first start."""
        return (self.directory / "log").read_text(errors="replace")

    @property
    def _pid(self) -> int:
        if self._process is None or not self.running:
            raise RuntimeError(f"{self.name} does not run")
        return self._process.pid

    def _command(self) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        """Return the command that runs it in the foreground, and its environment."""
        raise NotImplementedError

    def _ready(self) -> bool:
        """Say whether it serves; does not wait."""
        raise NotImplementedError

    def _started(self) -> bool:
        if not self.running:
            raise RuntimeError(f"{self.name} ended:\n{self.log[-4000:]}")
        return self._ready()

    def _spawn(
        self, argv: Sequence[str | Path], environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        with (self.directory / "log").open("ab") as log:
            process = subprocess.Popen(
                argv,
                env=os.environ | environment,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=self._user,
                group=self._user,
                extra_groups=None if self._user is None else [],
            )
        self._heirs[process.pid] = subprocess.Popen(
            ["sh", "-c", _HEIR, "heir", self._end.name.removeprefix("SIG"),
             str(process.pid), self.directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        return process

    def _stop(self, how: signal.Signals) -> None:
        """End it with signal `how`; what is left of it after a minute is killed."""
        if self._process is not None:
            self._end_process(self._process, how)
            self._process = None

    def _end_process(
        self, process: subprocess.Popen[bytes], how: signal.Signals
    ) -> None:
        tree = _tree(process.pid) if process.poll() is None else []
        for pid in tree:
            _signal(pid, how if pid == process.pid else signal.SIGCONT)
        _signal(process.pid, signal.SIGCONT)
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            how = signal.SIGKILL
            process.kill()
            process.wait()
        if how is signal.SIGKILL:
            for pid in tree:
                _signal(pid, how)
        self._heirs.pop(process.pid).communicate(b"\n")
