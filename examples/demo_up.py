"""The `tasks-api up` of the demo: starts it in its own folder, finds its processes, stops it."""

# ruff: noqa: INP001, T201 - part of a script that starts our own command and prints

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil  # type: ignore[import-untyped]  # no stubs exist

if TYPE_CHECKING:
    from collections.abc import Iterator


BEGIN = time.monotonic()

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 120.0
STOP_SECONDS = 20.0
# Removed from the environment: the demo kills its servers, and these could name yours.
NAMED = ("DATABASE_URL", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND")


def say(text: str) -> None:
    """Print a line with the seconds since the start."""
    print(f"{time.monotonic() - BEGIN:5.1f} s  {text}", flush=True)


class Up:
    """A running `tasks-api up`: where it serves, and its processes."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
        self.port = port
        self.folder = folder
        self._process = process

    @property
    def runs(self) -> bool:
        """Return whether it has not ended."""
        return self._process.poll() is None

    @property
    def database(self) -> str:
        """Return the address of its PostgreSQL, for psycopg2."""
        running = json.loads((self.folder / "running.json").read_text())
        url: str = running["database_url"]
        return url.replace("+psycopg2", "")

    def find(self, *words: str) -> psutil.Process:
        """Return its first process whose command has these words. Raises RuntimeError for none."""
        for process in psutil.Process(self._process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                command = process.cmdline()
                if all(any(word in part for part in command) for word in words):
                    return process
        raise RuntimeError(f"no process of {' '.join(words)} is there")


@contextmanager
def service(folder: Path) -> Iterator[Up]:
    """Run `tasks-api up` with its own servers; stop it at the end, also after an error.

    Raises SystemExit if it does not start, or if `.env` names a database.
    """
    say("Starting PostgreSQL, Valkey, the API, a worker and Flower (tasks-api up)")
    port = free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if name not in NAMED},
        "DATA_DIR": str(folder / "data"),
        "TMPDIR": str(folder),  # a killed worker leaves a folder there
        "API_PORT": str(port),
        "FLOWER_PORT": str(free_port()),
        "PYTHONUNBUFFERED": "1",
    }
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "backend", "up"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl+C must reach only the demo, which then stops this
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while "Tasks API is ready" not in log.read_text(errors="replace"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"It did not start:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.1)
        if "database_url" not in (folder / "data" / "running.json").read_text():
            raise SystemExit("The demo kills its servers, but .env names yours: remove .env first")
        yield Up(process, port, folder / "data")
    finally:
        say("Stopping everything")
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Stop `up`, and kill those of its processes that are left."""
    family = []
    with suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    process.kill()
    process.wait()


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
