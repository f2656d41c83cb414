"""The whole stack in one terminal: starts every process, labels its output, stops all together."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from typing import Final

import honcho.manager

from backend.settings import settings
from backend.telemetry import on_terminal

# The worker lets running tasks end for 5 s; all, embedded servers too, is to be over within 10 s.
KILL_SECONDS = 6.0
honcho.manager.KILL_WAIT = KILL_SECONDS
PROCESSES: Final = ("api", "worker", "flower")


class Manager(honcho.manager.Manager):  # type: ignore[misc]  # honcho has no types
    """Honcho's, which takes a signal that comes while the processes are still starting.

    It learns of their numbers one by one, and without them it cannot stop them.
    """

    _told = False

    def terminate(self) -> None:
        """Stop all processes, as soon as all have started."""
        if not self._told:
            # From here on: honcho counts from the first process that has ended.
            late = threading.Timer(KILL_SECONDS, self.kill)
            late.daemon = True
            late.start()
        self._told = True
        if super()._all_started():
            super().terminate()

    def _all_started(self) -> bool:
        # Its loop asks this after everything that happens.
        started: bool = super()._all_started()
        if started and self._told:
            super().terminate()
        return started


def run() -> int:
    """Run until a signal, or until one process ends; return the exit code."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if on_terminal():
        environment["FORCE_COLOR"] = "1"
    manager = Manager()
    for name in PROCESSES:
        command = f"exec {shlex.quote(sys.executable)} -m backend {name}"
        manager.add_process(name, command, env=environment)
    # A terminal that is closed stops all as Ctrl+C does.
    signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    threading.Thread(target=_announce, name="announce", daemon=True).start()
    manager.loop()
    told = manager.returncode in {130, 143}  # honcho's codes for SIGINT and SIGTERM
    if not told:
        sys.stderr.write(
            "tasks-api: a process ended by itself, so everything was stopped;"
            " the lines above say which and why\n"
        )
    else:
        sys.stdout.write("Everything has stopped. What was accepted is kept.\n")
    return 0 if told else 1


def _announce() -> None:
    """Print addresses and a first command once everything answers."""
    api = f"http://localhost:{settings().api_port}"
    flower = f"http://localhost:{settings().flower_port}"
    while not (_answers(f"{api}/health/ready", '"degraded":[]') and _answers(flower)):
        time.sleep(0.2)
    bold, plain = (
        ("\x1b[1m", "\x1b[0m") if on_terminal() and "NO_COLOR" not in os.environ else ("", "")
    )
    sys.stdout.write(
        f"""
{bold}Tasks API is ready{plain}
  API       {api}
  Swagger   {api}/docs
  ReDoc     {api}/redoc
  Flower    {flower}
Try it:
  curl -X POST {api}/tasks/ -H "Content-Type: application/json" -d '{{"content": "Hello World"}}'
Stop with Ctrl+C.

"""
    )
    sys.stdout.flush()


def _answers(url: str, text: str = "") -> bool:
    """Tell whether a page answers, with the text in it; a login page is an answer too."""
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:  # noqa: S310 - our own http URLs
            return text in answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code == 401 and not text  # noqa: PLR2004 - Flower with basic auth
    except OSError:
        return False
