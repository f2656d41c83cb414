"""One process of the stack, as `tasks-api up` starts it, prints its lines and restarts it."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import IO, TYPE_CHECKING

from backend.loop import start_thread
from backend.telemetry import terminal

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence

    from backend.telemetry.terminal import Output

logger = logging.getLogger("system")


@dataclass(frozen=True)
class Times:
    """How many seconds the supervisor waits for what."""

    # The pauses before restarts: 1, 2, 4 ... 30 s; 1 s again after the process has run for a
    # minute.
    first_pause: float = 1.0
    longest_pause: float = 30.0
    steady: float = 60.0
    # The worker waits STOP_SECONDS for running tasks, and everything stops 5 s later, embedded
    # servers too.
    kill: float = 6.0


class Service:
    """One process of the stack, which is started again when it has ended."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        output: Output,
        inherited_fds: Sequence[int],
        times: Times,
    ) -> None:
        self.name = name
        self._inherited_fds = inherited_fds
        self._command = command
        self._output = output
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._times = times
        self._pause = times.first_pause
        self._start_at = 0.0
        self._started_at = 0.0

    def check(self, *, restart: bool) -> bool:
        """Start it if it is time to. Return False if it has ended and is not to be restarted.

        After a minute of running it is restarted even without `restart`: its configuration works.
        """
        now = time.monotonic()
        if self._process is None:
            if now >= self._start_at:
                self._start()
            return True
        if not self.ended():
            return True
        end = f"{self.name} ended ({_how(self._process.returncode)})"
        # Kill its children: one that still listens on the port would stop the next process.
        self.send(signal.SIGKILL)
        self._process = None
        if now - self._started_at >= self._times.steady:
            self._pause = self._times.first_pause
        elif not restart:
            logger.error("%s", end)
            return False
        self._start_later(end)
        return True

    def start_again(self) -> None:
        """Start it without a pause. Its process must have ended."""
        self.send(signal.SIGKILL)  # what is left of its group
        self._process = None
        self._start_at, self._pause = 0.0, self._times.first_pause
        self._start()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process and to those of its children that are in its group."""
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):  # macOS refuses a dead group
                os.killpg(self._process.pid, number)

    def ended(self) -> bool:
        """Return whether its process does not run."""
        return self._process is None or self._process.poll() is not None

    def finish(self, deadline: float) -> None:
        """Wait for the last lines until the deadline (monotonic), and report how it ended."""
        if self._reader is not None:
            self._reader.join(max(0.0, deadline - time.monotonic()))
        if self._process is not None:
            logger.info("%s stopped (%s)", self.name, _how(self._process.returncode))

    def _start_later(self, why: str) -> None:
        logger.warning("%s; starting it again in %g s", why, self._pause)
        self._start_at = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, self._times.longest_pause)

    def _start(self) -> None:
        self._started_at = time.monotonic()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                # A terminal sends Ctrl+C to all processes of its session: only `up` is to get it.
                start_new_session=True,
                pass_fds=self._inherited_fds,
            )
        except OSError as error:  # too many processes, or no memory for another
            self._start_later(f"{self.name} cannot be started ({error.strerror})")
            return
        pass_on = partial(self._pass_on, self._process.stdout)
        self._reader = start_thread("output", f"prints the lines of {self.name}", pass_on)
        logger.info("%s started (pid %d)", self.name, self._process.pid)

    def _pass_on(self, lines: IO[bytes] | None) -> None:
        assert lines is not None  # noqa: S101 - for mypy: stdout is a pipe
        with lines:
            for line in lines:
                text = line.decode(errors="replace").rstrip()
                if text:
                    self._output.show(terminal.parse(text, self.name))


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        return f"killed by signal {-code}"
    return f"exit code {code}"
