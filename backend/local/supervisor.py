"""Runs the whole stack in one terminal: starts every process, prints its lines, restarts it.

If a process ends in its first minute, before everything was ready, all are stopped: usually its
configuration is wrong, and its lines say why. A process that ends later is started again, with
growing pauses.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import IO, TYPE_CHECKING, Final

from backend.local.announce import announce
from backend.loop import start_thread
from backend.settings import read
from backend.telemetry import terminal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from backend.local.programs import Server
    from backend.telemetry.terminal import Output

# How long to wait for the last lines of ended processes. A subprocess may keep the output open.
LAST_LINES_SECONDS = 0.5
POLL_SECONDS = 0.1

PROCESSES: Final = ("api", "worker", "flower")

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


class Supervisor:
    """Runs services until it is told to stop."""

    def __init__(
        self,
        commands: Mapping[str, Sequence[str]],
        output: Output,
        *,
        servers: Sequence[Server] = (),
        inherited_fds: Sequence[int] = (),
        parent: int | None = None,
        times: Times | None = None,
    ) -> None:
        """Prepare to run each command with `inherited_fds` open, while `parent` is our parent.

        `servers` run already, and are restarted when they end. They are not stopped here.
        """
        self.ready = threading.Event()
        # A plain flag: a signal handler must not take the lock of an Event that is waited for.
        self._stop_requested = False
        self._times = times or Times()
        self._closed = output.closed
        self._parent = parent
        self._servers = servers
        self._services = [
            Service(name, line, output, inherited_fds, self._times)
            for name, line in commands.items()
        ]

    def stop(self) -> None:
        """Make `run` stop everything and return; may be called from a signal handler."""
        self._stop_requested = True

    def run(self) -> bool:
        """Run until `stop`; return False if a process ended before `ready` was set.

        It also stops when the output is closed or the parent has ended. All processes have stopped
        when it returns, within `times.kill` + 1.5 s of `stop`.
        """
        well = True
        try:
            while well and not self._must_stop():
                time.sleep(POLL_SECONDS)
                self._check_servers()
                restart = self.ready.is_set()
                well = all(each.check(restart=restart) for each in self._services)
        finally:
            self._stop_all()
        return well

    def _check_servers(self) -> None:
        for server in self._servers:
            server.check()

    def _must_stop(self) -> bool:
        orphaned = self._parent is not None and os.getppid() != self._parent
        return self._stop_requested or self._closed.is_set() or orphaned

    def _stop_all(self) -> None:
        for number, seconds in ((signal.SIGTERM, self._times.kill), (signal.SIGKILL, 1.0)):
            running = [service for service in self._services if not service.ended()]
            for service in running:
                service.send(number)
            if running:
                names = ", ".join(service.name for service in running)
                logger.info("sending %s to %s", number.name, names)
            deadline = time.monotonic() + seconds
            while not all(service.ended() for service in running) and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
                # PostgreSQL must run: a worker that stops hands its tasks back.
                self._check_servers()
        deadline = time.monotonic() + LAST_LINES_SECONDS
        for service in self._services:
            service.send(signal.SIGKILL)  # what is left of its group
            service.finish(deadline)


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        return f"killed by signal {-code}"
    return f"exit code {code}"


def stop_signals() -> list[signal.Signals]:
    """Return the signals that stop all: Ctrl+C, `kill`, and a terminal that closes.

    SIGHUP is left out if it is ignored, as under nohup.
    """
    hung_up = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGINT, signal.SIGTERM, *hung_up]


def run(output: Output, servers: Sequence[Server], inherited_fds: Sequence[int]) -> int:
    """Run until a signal, or until a process ends before all are ready; return the exit code.

    `servers`: the embedded servers, which run already. The processes have `inherited_fds` open.
    """
    os.environ["PYTHONUNBUFFERED"] = "1"
    # Not the terminal's encoding: this process reads and prints their lines.
    os.environ["PYTHONIOENCODING"] = "utf-8:backslashreplace"
    commands = {name: [sys.executable, "-m", "backend", name] for name in PROCESSES}
    # The Makefile names make's process, which may be killed.
    parent = os.environ.pop("TASKS_API_PARENT", None)
    supervisor = Supervisor(
        commands,
        output,
        servers=servers,
        inherited_fds=inherited_fds,
        times=Times(kill=read().stop_seconds + 1.0),
        parent=int(parent) if parent else None,
    )
    for number in stop_signals():
        signal.signal(number, lambda *_: supervisor.stop())
    start_thread(
        "announce",
        "prints the addresses when everything answers",
        partial(announce, supervisor.ready, output),
    )
    if supervisor.run():
        logger.info("everything has stopped; what was accepted is kept")
        return 0
    sys.stderr.write(
        "tasks-api: a process ended before everything was ready, so everything was stopped;"
        " the lines above say which and why\n"
    )
    return 1
