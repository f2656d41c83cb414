"""Runs the whole stack in one terminal: starts, restarts and stops its processes.

If a process ends in its first minute, before everything was ready, all are stopped: usually its
configuration is wrong, and its lines say why. A process that ends later is started again, with
growing pauses.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from backend.local.announce import announce
from backend.local.reload import Changes
from backend.local.service import Service, Times
from backend.loop import start_thread
from backend.settings import read

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from backend.local.programs import Server
    from backend.telemetry.terminal import Output

# How long to wait for the last lines of ended processes. A subprocess may keep the output open.
LAST_LINES_SECONDS = 0.5
POLL_SECONDS = 0.1

PROCESSES: Final = ("api", "worker", "flower")
# Those that import tasks.
RELOADED: Final = {"api", "worker"}

logger = logging.getLogger("system")


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
        changes: Changes | None = None,
    ) -> None:
        """Prepare to run each command with `inherited_fds` open, while `parent` is our parent.

        `servers` run already, and are restarted when they end. They are not stopped here.
        `changes`: of files after which the processes in RELOADED are restarted.
        """
        self.ready = threading.Event()
        # A plain flag: a signal handler must not take the lock of an Event that is waited for.
        self._stop_requested = False
        self._times = times or Times()
        self._closed = output.closed
        self._parent = parent
        self._servers = servers
        self._changes = changes
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
                self._reload()
                # While somebody edits the code, a process may end in its first second.
                restart = self.ready.is_set() or self._changes is not None
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

    def _reload(self) -> None:
        """Restart the processes that run our code, if a file of it has changed."""
        changed = self._changes.next() if self._changes else None
        if changed is None:
            return
        logger.info("%s has changed", changed.name)
        reloaded = [service for service in self._services if service.name in RELOADED]
        # Those that have ended already are started again too.
        for service in self._end(reloaded):
            if self._must_stop():
                return
            service.start_again()

    def _stop_all(self) -> None:
        for _ in self._end(self._services):
            pass
        deadline = time.monotonic() + LAST_LINES_SECONDS
        for service in self._services:
            service.send(signal.SIGKILL)  # what is left of its group
            service.finish(deadline)

    def _end(self, services: Sequence[Service]) -> Iterator[Service]:
        """End processes; yield each when it has ended. Takes at most `times.kill` + 1 s."""
        running = list(services)
        for number, seconds in ((signal.SIGTERM, self._times.kill), (signal.SIGKILL, 1.0)):
            names = []
            for service in running:
                if not service.ended():
                    service.send(number)
                    names.append(service.name)
            if names:
                logger.info("sending %s to %s", number.name, ", ".join(names))
            deadline = time.monotonic() + seconds
            while running:
                for service in [each for each in running if each.ended()]:
                    running.remove(service)
                    yield service
                if not running or time.monotonic() > deadline:
                    break
                time.sleep(POLL_SECONDS)
                # PostgreSQL must run: a worker that stops hands its tasks back.
                self._check_servers()


def stop_signals() -> list[signal.Signals]:
    """Return the signals that stop all: Ctrl+C, `kill`, and a terminal that closes.

    SIGHUP is left out if it is ignored, as under nohup.
    """
    hung_up = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGINT, signal.SIGTERM, *hung_up]


def run(
    output: Output, servers: Sequence[Server], inherited_fds: Sequence[int], *, reload: bool
) -> int:
    """Run until a signal, or until a process ends before all are ready; return the exit code.

    `servers`: the embedded servers, which run already. The processes have `inherited_fds` open.
    `reload`: whether API and worker are restarted when a file of the tasks or the service changes.
    """
    packages = {"backend", *(name.strip().split(".")[0] for name in read().task_modules.split(","))}
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
        changes=Changes(packages) if reload else None,
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
