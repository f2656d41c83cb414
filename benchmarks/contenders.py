"""Who is measured: ours, the floor and the peers, each with a database and a virtual host."""

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
    """A service under measurement; subclasses say how it is started and where its tasks are."""

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
        """Start what takes requests, and return when it does."""
        raise NotImplementedError

    def worker(self) -> AbstractContextManager[None]:
        """Have a worker of two processes."""
        raise NotImplementedError

    def restart(self) -> None:
        """Start over with fresh processes."""
        self.processes.close()
        self.start()

    def close(self) -> None:
        """Stop all."""
        self.processes.close()
        self._depth.close()

    def load(self, seconds: float, **options: Any) -> Load:
        """Post message tasks for a while."""
        return load(self.url, lambda: self.post, seconds=seconds, **options)

    def published(self) -> int:
        """Return how many tasks lie where a worker would take them from."""
        return self._depth()

    def messages(self) -> int:
        """Return how many messages were written."""
        return self.database.number(f"SELECT count(*) FROM {self.message_table}")

    def ended(self) -> int:
        """Return how many tasks have succeeded."""
        raise NotImplementedError

    def missing(self, answers: Load) -> int:
        """Return how many of the tasks accepted the service's own books do not have."""
        return max(0, answers.good - self.published())

    def clear(self) -> None:
        """Forget all tasks and messages."""
        if self.tables:
            eventually(self._truncate, 10, "the tables are empty")
        self.purge()

    def _truncate(self) -> bool:
        """Empty the tables; False after a deadlock: a service locks them in another order."""
        try:
            self.database.query(f"TRUNCATE {', '.join(self.tables)}")
        except DeadlockDetected:
            return False
        return True

    def purge(self) -> None:
        """Empty its queues."""
        self._broker.purge(self.name)

    def _serve(self, module: str) -> None:
        """Start uvicorn as one would for speed: one process, no line a request."""
        argv = [PYTHON, "-m", "uvicorn", f"benchmarks.peers.{module}:app"]
        argv += ["--port", str(self.port), "--no-access-log", "--log-level", "warning"]
        self.processes.start("api", argv, self.environment)
        self.processes.wait_for_port("api", self.port)


class Ours(Contender):
    """The service: an API with a relay in it and, where wanted, a worker."""

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
            # Most rows post faster than anybody works. See rows/flood.py for the refusals.
            "MAX_WAITING": "100000000",
        }
        self._run("migrate")
        self.processes.wait_for_end("migrate")

    def start(self) -> None:
        """Start the API with a relay in it, as `make run` does."""
        self.start_api()

    def start_api(self, workers: int = 1) -> None:
        """Start the API with so many processes."""
        self._run("api", API_WORKERS=str(workers))
        self.processes.wait_for_port("api", self.port)

    @contextmanager
    def worker(self) -> Iterator[None]:
        """Have a worker of two processes."""
        self._run("worker")
        self.processes.wait_for_word("worker", " ready.")
        try:
            yield
        finally:
            self.processes.stop("worker")

    def confirm_code(self) -> None:
        """Raise RuntimeError where a process runs other code than that in `code`."""
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
        """Count the tasks in messages, once the broker has all the messages that it should."""
        messages, tasks = self.database.query(
            "SELECT count(DISTINCT published_at), count(published_at) FROM outbox"
        )[0]
        return int(str(tasks)) if self._depth() >= int(str(messages)) else 0

    def missing(self, answers: Load) -> int:
        """Compare the ids given with the ledger's."""
        given = {json.loads(body)["task_id"] for body in answers.bodies}
        known = {row[0] for row in self.database.query("SELECT CAST(id AS text) FROM tasks")}
        return answers.good - len(given & known)

    def _run(self, name: str, *arguments: str, **environment: str) -> None:
        argv = [PYTHON, "-m", "backend", name, *arguments]
        self.processes.start(name, argv, {**self.environment, **environment})


class Textbook(Contender):
    """What most people write."""

    name = "textbook"
    queues = ("textbook",)
    tables = ("textbook_messages",)
    message_table = "textbook_messages"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._succeeded = Succeeded(self._broker, self.name)

    def close(self) -> None:
        """Stop all."""
        super().close()
        self._succeeded.close()

    def ended(self) -> int:
        """Return how many tasks have succeeded; only Celery's events say it."""
        return self._succeeded()

    def start(self) -> None:
        """Start the API."""
        self._serve("textbook")

    @contextmanager
    def worker(self) -> Iterator[None]:
        """Have a worker of two processes."""
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
    """Validates, and does nothing."""

    name = "floor"

    def start(self) -> None:
        """Start the API."""
        self._serve("floor")

    def missing(self, answers: Load) -> int:  # noqa: ARG002 - a contender's signature
        """Nothing was promised."""
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
        """Count the jobs: the table is the queue."""
        return self.database.number("SELECT count(*) FROM procrastinate_jobs")
