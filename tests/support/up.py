"""`tasks-api up` with its own data, ports and environment, and a check for leftovers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from dotenv import dotenv_values

from backend import settings
from tests.support.ports import free_port
from tests.support.servers import tree
from tests.support.stack import ROOT, Process, Stack
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator


START_SECONDS = 60.0
STOP_SECONDS = 10.0
MINUTE = 60.0

NAMED = [
    name
    for name in ("database_url", "celery_broker_url")
    if os.environ.get(name.upper())
    or any(dotenv_values(file).get(name.upper()) for file in settings.ENV_FILES)
]
needs_embedded = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(
        any(name.upper() not in os.environ for name in NAMED),
        reason="a .env names servers, so embedded ones are not used",
    ),
]


@dataclass
class Folder:
    """A folder for an `up` with its own data, ports and environment.

    options: of `up`. changed: variables of its environment.
    """

    path: Path
    api_port: int = field(default_factory=free_port)
    flower_port: int = field(default_factory=free_port)
    starts: int = 0
    options: tuple[str, ...] = ()
    changed: dict[str, str] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        return self.path / "data"

    def environment(self) -> dict[str, str]:
        known = {name: value for name, value in os.environ.items() if name.lower() not in NAMED}
        return {
            **known,
            "DATA_DIR": str(self.data),
            "API_PORT": str(self.api_port),
            "FLOWER_PORT": str(self.flower_port),
            "API_WORKERS": "1",
            "WORKER_CONCURRENCY": "2",
            "CELERY_RESULT_BACKEND": "rpc://",
            **self.changed,
        }

    def run(
        self, *command: str, stdin: int = subprocess.DEVNULL
    ) -> subprocess.CompletedProcess[str]:
        """Run `python -m <command>` with the same settings."""
        return subprocess.run(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env=self.environment(),
            stdin=stdin,
            capture_output=True,
            text=True,
            timeout=MINUTE,
            check=False,
        )

    def start(self) -> Process:
        """Start `up` and return when it reports that all is ready."""
        self.starts += 1
        output = self.path / f"up-{self.starts}.log"
        sink = output.open("wb")
        popen = subprocess.Popen(
            [sys.executable, "-m", "backend", "up", *self.options],
            cwd=ROOT,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        up = Process(popen, output, sink)

        def ready() -> bool:
            assert popen.poll() is None, up.log
            return "Tasks API is ready" in up.log

        eventually(ready, START_SECONDS, "`up` reports that all is ready")
        return up

    def urls(self) -> dict[str, str]:
        urls: dict[str, str] = json.loads((self.data / settings.RUNNING_FILE).read_text())
        return urls

    def stack(self) -> Stack:
        """Return a Stack for the service that runs here."""
        urls = self.urls()
        return Stack(urls["database_url"], urls["celery_broker_url"], self.path, port=self.api_port)

    @contextmanager
    def running(self) -> Iterator[tuple[Process, Stack]]:
        """Run `up`; it is stopped at the end, also after an error."""
        up = self.start()
        try:
            yield up, self.stack()
        except BaseException:
            print(up.log[-6000:])
            raise
        finally:
            stop(up, signal.SIGTERM)


def stop(up: Process, how: signal.Signals) -> None:
    """Stop `up` and check that all its processes have ended in time."""
    if up.popen.poll() is None:
        family = list(tree(up.popen.pid))
        up.popen.send_signal(how)
        try:
            assert up.popen.wait(STOP_SECONDS) == 0
            assert [pid for pid in family if alive(pid)] == []
        finally:
            for pid in filter(alive, family):
                os.kill(pid, signal.SIGKILL)
            up.sink.close()


def alive(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}/exe")  # noqa: PTH110 - the link of a zombie is broken


def told(pid: int, name: str) -> bytes:
    """Return a file of a process in /proc, or nothing if it has just ended."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # PostgreSQL ends processes of its own at any time
        return b""


def program(up: Process, name: str) -> int:
    """Return the process id of a server that `up` has started or restarted."""
    return next(pid for pid in tree(up.popen.pid) if told(pid, "comm").strip() == name.encode())


def servers(folder: Folder) -> subprocess.Popen[bytes]:
    """Start only the embedded servers; return their process when they serve."""
    code = """
import select, sys
from pathlib import Path
from backend.local.lifetime import exclusive_data_dir, servers
from backend.settings import read
found = read().model_copy(update={"data_dir": Path(sys.argv[1])})
with exclusive_data_dir(found.data_dir), servers(found) as (running, _):
    print("they serve", flush=True)
    while not select.select([sys.stdin], [], [], 0.1)[0]:
        for server in running:
            server.check()
"""
    environment = folder.environment()
    process = subprocess.Popen(
        [sys.executable, "-c", code, folder.data],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    said = b""
    while b"they serve" not in said:
        line = process.stdout.readline()
        assert line, said
        said += line
    return process
