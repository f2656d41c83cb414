"""The service's real processes, started as by a user and killed as in an outage."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, Self

import httpx
import psycopg2

from .ports import free_port
from .waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


ROOT = Path(__file__).resolve().parent.parent.parent
START_SECONDS = 30.0


@dataclass
class Process:
    """A running process of the service; its output goes to a file."""

    popen: subprocess.Popen[bytes]
    output: Path
    sink: IO[bytes]

    @property
    def log(self) -> str:
        """Return all that it has printed."""
        return self.output.read_text(errors="replace")

    def children(self) -> list[int]:
        """Return the process ids of its children, or an empty list after its end.

        A worker's cleaner (worker/parent/subprocesses.py) is left out: it has its own session.
        """
        pid = self.popen.pid
        found: list[int] = []
        with suppress(FileNotFoundError, ProcessLookupError):
            children = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
            found.extend(child for child in children if os.getsid(child) != child)
        return found


# The settings of a worker with one process for tasks.
ONE_PROCESS = {"WORKER_CONCURRENCY": "1", "WORKER_QUEUES": "tasks"}


@dataclass
class Stack:
    """Processes that share one database and one broker.

    `environment` is added to every process's; `start(…, environment)` to one process's. `module`
    replaces the `tasks-api` command. Closing kills all running processes.
    """

    database_url: str
    broker_url: str
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    module: str = "backend"
    port: int = field(default_factory=free_port)
    _processes: dict[str, Process] = field(default_factory=dict)
    _starts: int = 0

    def __post_init__(self) -> None:
        self.run("migrate")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.close()
        if kind is not None:
            for output in sorted(self.folder.glob("*.log")):
                print(f"==== {output.name}\n{output.read_text(errors='replace')[-6000:]}")

    def __getitem__(self, name: str) -> Process:
        return self._processes[name]

    @property
    def url(self) -> str:
        """Return the API's address."""
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> httpx.Client:
        """Return a new HTTP client of the API."""
        return httpx.Client(base_url=self.url, timeout=70)

    def settings(self) -> dict[str, str]:
        """Return the environment of a process; it overrides the settings of a local `.env`."""
        return {
            **os.environ,
            "DATABASE_URL": self.database_url,
            "CELERY_BROKER_URL": self.broker_url,
            "CELERY_RESULT_BACKEND": os.environ.get("TESTS_RESULT_BACKEND", "rpc://"),
            "API_HOST": "127.0.0.1",
            "API_PORT": str(self.port),
            "API_WORKERS": "1",
            "WORKER_CONCURRENCY": "2",
            "LOG_LEVEL": "INFO",
            "PYTHONUNBUFFERED": "1",
            **self.environment,
        }

    def run(self, *arguments: str) -> str:
        """Run a command of the service and return its output."""
        command = [sys.executable, "-m", self.module, *arguments]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=self.settings(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(
        self, *arguments: str, name: str = "", environment: Mapping[str, str] | None = None
    ) -> Process:
        """Start `tasks-api <arguments>` and wait until it works.

        `name`: the name of the process, by default the first argument.
        """
        process = self.launch(*arguments, name=name, environment=environment)
        if arguments[0] == "api":
            eventually(self._serves, START_SECONDS, "the API serves")
        elif arguments[0] == "worker":
            eventually(lambda: " ready." in process.log, START_SECONDS, "the worker is ready")
        return process

    def launch(
        self, *arguments: str, name: str = "", environment: Mapping[str, str] | None = None
    ) -> Process:
        """Start `tasks-api <arguments>` as `start` does, without waiting."""
        name = name or arguments[0]
        self._starts += 1
        output = self.folder / f"{self._starts:02d}-{name}.log"
        sink = output.open("wb")
        popen = subprocess.Popen(
            [sys.executable, "-m", self.module, *arguments],
            cwd=ROOT,
            env={**self.settings(), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        process = self._processes[name] = Process(popen, output, sink)
        return process

    def kill(self, name: str) -> None:
        """Kill a process as `kill -9` does, without cleaning up after it."""
        process = self._processes.pop(name)
        process.popen.kill()
        process.popen.wait()
        process.sink.close()

    def stop(self, name: str, how: signal.Signals = signal.SIGTERM, timeout: float = 15) -> int:
        """Stop a process with a signal and return its exit code."""
        process = self._processes.pop(name)
        process.popen.send_signal(how)
        code = process.popen.wait(timeout)
        process.sink.close()
        return code

    def close(self) -> None:
        """Kill every running process and its children."""
        for process in self._processes.values():
            orphans = process.children() if process.popen.poll() is None else []
            process.popen.kill()
            process.popen.wait()
            process.sink.close()
            for pid in orphans:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        self._processes.clear()

    def query(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query on the service's database."""
        connection = psycopg2.connect(self.database_url.replace("+psycopg2", ""))
        connection.autocommit = True
        with closing(connection), connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return list(cursor.fetchall())

    def scalar(self, sql: str, *parameters: object) -> object:
        """Return the one value of a query on the service's database."""
        return self.query(sql, *parameters)[0][0]

    def post(self, path: str, body: object = None) -> str:
        """Post a task and return its id."""
        answer = httpx.post(f"{self.url}{path}", json=body, timeout=10)
        assert answer.status_code == 202, answer.text
        task_id: str = answer.json()["task_id"]
        return task_id

    def state(self, task_id: str, wait: float = 0) -> dict[str, object]:
        """Return the answer of GET /tasks/{id}."""
        answer = httpx.get(f"{self.url}/tasks/{task_id}?wait={wait}", timeout=wait + 10)
        assert answer.status_code == 200, answer.text
        state: dict[str, object] = answer.json()
        return state

    def attempt(self, task_id: str) -> int:
        """Return the number of a task's current attempt."""
        return int(str(self.scalar("SELECT attempt FROM tasks WHERE id = %s", task_id)))

    def unfinished(self) -> int:
        """Return how many tasks have not ended."""
        count = self.scalar(
            "SELECT count(*) FROM tasks WHERE state IN ('PENDING', 'STARTED', 'RETRY')"
        )
        return int(str(count))

    def _serves(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health/live", timeout=2).status_code == 200
        except httpx.TransportError:
            return False


class _Database(Protocol):
    def start(self) -> None: ...
    def create_database(self) -> str: ...


class _Broker(Protocol):
    @property
    def url(self) -> str: ...
    def start(self) -> None: ...
    def delete_all_queues(self) -> None: ...


@contextmanager
def serving(
    database: _Database,
    broker: _Broker,
    folder: Path,
    *commands: str,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Stack]:
    """Yield a stack that runs the commands ("api --no-relay"), for the tests of a whole file."""
    database.start()
    broker.start()
    url = database.create_database()
    with Stack(url, broker.url, folder, dict(environment or {})) as stack:
        for command in commands:
            stack.start(*command.split())
        yield stack
    broker.delete_all_queues()
