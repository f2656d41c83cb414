"""The measured services: ours, the floor and the peers. Each has a database and a virtual host."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psycopg2.errors import DeadlockDetected

from benchmarks.load import Load, Request, load
from benchmarks.processes import ROOT, START_SECONDS, Processes
from benchmarks.servers import Broker, Database, Depth, Succeeded
from tests.support.ports import free_port
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from tests.support.servers import Postgres

CONTENT = "Hello World"
POST = Request("/tasks/", json.dumps({"content": CONTENT}).encode())
PYTHON = sys.executable


class Contender:
    """A measured service; subclasses define how it is started and where its tasks are."""

    name: str
    post = POST
    queues: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()  # emptied between rounds
    message_table = "messages"

    def __init__(
        self,
        postgres: Postgres,
        broker: Broker,
        folder: Path,
        name: str = "",
        code: Path = ROOT,
    ) -> None:
        self.name = name or self.name
        self.code = code
        self.database = Database(postgres.create_database())
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._broker = broker
        self._depth = Depth(broker, self.name, self.queues)
        own = folder / self.name
        own.mkdir()
        self.processes = Processes(own, code)
        self.environment = {
            "DATABASE_URL": self.database.url.replace("://", "+psycopg2://"),
            "CELERY_BROKER_URL": broker.add_host(self.name),
            "CELERY_RESULT_BACKEND": "rpc://",
        }

    def start(self) -> None:
        """Start the process that serves HTTP; return when it listens."""
        raise NotImplementedError

    def worker(self) -> AbstractContextManager[None]:
        """Run a worker with two processes."""
        raise NotImplementedError

    def restart(self) -> None:
        """Stop all processes, then start again."""
        self.processes.close()
        self.start()

    def close(self) -> None:
        """Stop all processes and disconnect from the broker."""
        self.processes.close()
        self._depth.close()

    def load(self, seconds: float, **options: Any) -> Load:
        """Post message tasks for `seconds`; return the answers. `options`: as for `load`."""
        return load(self.url, lambda: self.post, seconds=seconds, **options)

    def published(self) -> int:
        """Return how many tasks are where a worker takes them from, such as a queue."""
        return self._depth()

    def messages(self) -> int:
        """Return how many messages were written."""
        return self.database.number(f"SELECT count(*) FROM {self.message_table}")

    def ended(self) -> int:
        """Return how many tasks have succeeded."""
        raise NotImplementedError

    def missing(self, answers: Load) -> int:
        """Return how many accepted tasks are not where the service should have them."""
        return max(0, answers.good - self.published())

    def clear(self) -> None:
        """Delete all tasks and messages."""
        if self.tables:
            eventually(self._truncate, 10, "the tables are empty")
        self.purge()

    def _truncate(self) -> bool:
        """Empty the tables; return False after a deadlock with the service, to try again."""
        try:
            self.database.query(f"TRUNCATE {', '.join(self.tables)}")
        except DeadlockDetected:
            return False
        return True

    def purge(self) -> None:
        """Empty its queues."""
        self._broker.purge(self.name)

    def _serve(self, module: str) -> None:
        """Start uvicorn with fast settings: one process, and no log line for each request."""
        argv = [PYTHON, "-m", "uvicorn", f"benchmarks.peers.{module}:app"]
        argv += ["--port", str(self.port), "--no-access-log", "--log-level", "warning"]
        self.processes.start("api", argv, self.environment)
        self.processes.wait_for_port("api", self.port)


class Ours(Contender):
    """The service: an API with a relay in it and, in some rows, a worker."""

    name = "ours"
    queues = ("tasks", "short_tasks")
    tables = ("tasks", "outbox", "messages")

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.environment |= {
            "API_HOST": "127.0.0.1",
            "API_PORT": str(self.port),
            "WORKER_CONCURRENCY": "2",
            "LOG_LEVEL": "INFO",
            # Most rows post faster than a worker works. Only rows/flood.py measures refusals.
            "MAX_WAITING": "100000000",
        }
        if (self.code / "benchmarks" / "tasks.py").exists():  # not in an older commit
            self.environment["TASK_MODULES"] = "backend.tasks,benchmarks.tasks"
        self._run("migrate")
        self.processes.wait_for_end("migrate")

    def start(self) -> None:
        """Start the API with a relay in it, as `make run` does."""
        self.start_api()

    def start_api(self, workers: int = 1) -> None:
        """Start the API with `workers` processes; return when it listens."""
        self._run("api", API_WORKERS=str(workers))
        self.processes.wait_for_port("api", self.port)

    @contextmanager
    def worker(self) -> Iterator[None]:
        """Run a worker with two processes."""
        self._run("worker")
        self.processes.wait_for_word("worker", " ready.")
        try:
            yield
        finally:
            self.processes.stop("worker")

    def confirm_code(self) -> None:
        """Raise RuntimeError if a process runs other code than that in `code`."""
        argv = [PYTHON, "-c", "import backend; print(backend.__file__)"]
        self.processes.start("import", argv, self.environment)
        imported = Path(self.processes.wait_for_end("import").strip())
        folders = self.processes.folders()
        if imported != self.code / "backend" / "__init__.py" or folders != {self.code}:
            raise RuntimeError(f"{self.name} runs {imported} in {folders}, not {self.code}")

    def ended(self) -> int:
        """Return how many tasks have succeeded."""
        return self.database.number("SELECT count(*) FROM tasks WHERE state = 'SUCCESS'")

    def published(self) -> int:
        """Return how many tasks are published; 0 until the broker has all their messages."""
        messages, tasks = self.database.query(
            "SELECT count(DISTINCT published_at), count(published_at) FROM outbox"
        )[0]
        return int(str(tasks)) if self._depth() >= int(str(messages)) else 0

    def missing(self, answers: Load) -> int:
        """Return how many ids of accepted tasks the ledger does not have."""
        given = {json.loads(body)["task_id"] for body in answers.bodies}
        known = {row[0] for row in self.database.query("SELECT CAST(id AS text) FROM tasks")}
        return answers.good - len(given & known)

    def _run(self, name: str, *arguments: str, **environment: str) -> None:
        argv = [PYTHON, "-m", "backend", name, *arguments]
        self.processes.start(name, argv, {**self.environment, **environment})


class Textbook(Contender):
    """The application that most people would write."""

    name = "textbook"
    queues = ("textbook",)
    tables = ("textbook_messages",)
    message_table = "textbook_messages"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._succeeded = Succeeded(self._broker, self.name)

    def close(self) -> None:
        """Stop all processes and disconnect from the broker."""
        super().close()
        self._succeeded.close()

    def ended(self) -> int:
        """Return how many tasks have succeeded, counted by Celery's events."""
        return self._succeeded()

    def start(self) -> None:
        """Start the API."""
        self._serve("textbook")

    @contextmanager
    def worker(self) -> Iterator[None]:
        """Run a worker with two processes."""
        argv = [PYTHON, "-m", "celery", "-A", "benchmarks.peers.textbook:celery", "worker"]
        argv += ["--concurrency=2"]
        self.processes.start("worker", argv, self.environment)
        eventually(lambda: self._depth.consumers() > 0, START_SECONDS, "the worker consumes")
        self._succeeded.collect()
        try:
            yield
        finally:
            self.processes.stop("worker")


class Floor(Contender):
    """Validates requests, and does nothing else."""

    name = "floor"

    def start(self) -> None:
        """Start the API."""
        self._serve("floor")

    def missing(self, answers: Load) -> int:  # noqa: ARG002 - a contender's signature
        """Return 0, because it stores no tasks."""
        return 0


class Flower(Contender):
    """Flower's HTTP API, which posts the textbook's task."""

    name = "flower"
    queues = ("textbook",)
    post = Request(
        "/api/task/async-apply/benchmarks.peers.textbook.insert_message",
        json.dumps({"args": [CONTENT]}).encode(),
    )

    def start(self) -> None:
        """Start Flower."""
        argv = [PYTHON, "-m", "celery", "-A", "benchmarks.peers.textbook:celery", "flower"]
        argv += ["--address=127.0.0.1", f"--port={self.port}", "--logging=warning"]
        environment = {**self.environment, "FLOWER_UNAUTHENTICATED_API": "true"}
        self.processes.start("api", argv, environment)
        self.processes.wait_for_port("api", self.port)


class Taskiq(Contender):
    """FastAPI with taskiq on RabbitMQ."""

    name = "taskiq"
    queues = ("taskiq",)

    def start(self) -> None:
        """Start the API."""
        self._serve("with_taskiq")


class Procrastinate(Contender):
    """FastAPI with procrastinate."""

    name = "procrastinate"
    tables = ("procrastinate_jobs CASCADE",)

    def start(self) -> None:
        """Start the API."""
        self._serve("with_procrastinate")

    def published(self) -> int:
        """Return how many jobs there are: the table is the queue."""
        return self.database.number("SELECT count(*) FROM procrastinate_jobs")
