"""The base class of the tests' servers."""

import atexit
import contextlib
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from tests.support.ports import free_port
from tests.support.waiting import eventually

from .processes import clean_environment, identity, send_signal, tree

# Seconds that a server may take to start or to stop.
PATIENCE = 60.0

# Waits for a line of input. If the input is closed without a line, the tests' process has ended
# without cleaning up. Then it ends a process group (argument 2, by signal 1) and removes a
# directory (argument 3).
HEIR = """
read -r _ && exit
kill -s "$1" -- "-$2"
sleep 1
kill -s KILL -- "-$2"
rm -rf "$3"
"""


class Server:
    """One server process in its own session, and its directory."""

    # The signal that ends it at once and leaves no resources in the system.
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
        """Start it with its existing data, and return when it serves.

        Does nothing if it runs already. Raises RuntimeError with the end of its log if it
        ends, and AssertionError if it does not serve after a minute.
        """
        if not self.running:
            self._stop(signal.SIGKILL)  # clean up after a process that ended unexpectedly
            self._process = self._spawn(*self._command())
            eventually(self._started, PATIENCE, f"{self.name} serves")

    def freeze(self) -> None:
        """Stop all its processes (SIGSTOP): its connections stay open but silent."""
        for pid in tree(self._pid):
            send_signal(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Continue its processes after `freeze()`; do nothing if it is not frozen or is down."""
        if self.running:
            for pid in tree(self._pid):
                send_signal(pid, signal.SIGCONT)

    def close(self) -> None:
        """Stop it and remove its files; idempotent."""
        atexit.unregister(self.close)
        self._stop(self._end)
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def running(self) -> bool:
        """Return whether its process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def serves(self) -> bool:
        """Return whether it runs and answers."""
        return self.running and self._ready()

    @property
    def log(self) -> str:
        """Return its log since the first start."""
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
        """Return whether it serves, without waiting."""
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
                env={**clean_environment(self.directory), **environment},
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **identity(self._user),
            )
        heir = ["sh", "-c", HEIR, "heir", self._end.name.removeprefix("SIG")]
        self._heirs[process.pid] = subprocess.Popen(
            [*heir, str(process.pid), self.directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        return process

    def _stop(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._end_process(self._process, how)
            self._process = None

    def _end_process(self, process: subprocess.Popen[bytes], how: signal.Signals) -> None:
        """End a process by the signal `how`; for SIGKILL, or after a minute, kill its tree."""
        if process.poll() is None and how is not signal.SIGKILL:
            process.send_signal(how)
            for pid in tree(process.pid):
                send_signal(pid, signal.SIGCONT)  # the process may be stopped by SIGSTOP
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
        if process.poll() is None:
            for pid in list(tree(process.pid)):
                send_signal(pid, signal.SIGKILL)
            process.wait()
        self._heirs.pop(process.pid).communicate(b"\n")
