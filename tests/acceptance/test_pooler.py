"""The service behind PgBouncer in transaction mode, with a role without special rights."""

from __future__ import annotations

import os
import re
import signal
from typing import TYPE_CHECKING, Any

import httpx
import psycopg2
import pytest

from tests.support.posting import Posting
from tests.support.servers import Missing, PgBouncer
from tests.support.stack import Stack
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.servers import Postgres, RabbitMQ

MINUTE = 60.0
UNFINISHED = "SELECT count(*) FROM tasks WHERE state IN ('PENDING', 'STARTED', 'RETRY')"
IGNORED = {"ignore_startup_parameters": "options"}
LIMITS = {
    "statement_timeout": "10s",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "10s",
    "timezone": "UTC",
}


class Pooled:
    """A database with its own role, a pooler in front of it, and the service."""

    def __init__(
        self, postgres: Postgres, rabbitmq: RabbitMQ, folder: Path, settings: dict[str, str]
    ) -> None:
        self.pooler = PgBouncer(postgres, settings)
        url = postgres.create_database()
        self._admin_url = url.replace("+psycopg2", "")
        name = url.rpartition("/")[2]
        self.role = f"role_{name}"
        self.execute(f"CREATE ROLE {self.role} LOGIN; ALTER DATABASE {name} OWNER TO {self.role}")
        self.execute(f"ALTER DATABASE {name} SET timezone = 'Europe/Berlin'")
        self.pooler.allow(self.role)
        self.pooler.start()
        url = self.pooler.through(url).replace("postgres@", f"{self.role}@")
        self.stack = Stack(url, rabbitmq.url, folder, module="tests.support.service")

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        """Run SQL as a superuser, not through the pooler; return the rows of a query."""
        connection = psycopg2.connect(self._admin_url)
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql)
                return list(cursor.fetchall()) if cursor.description else []
        finally:
            connection.close()

    def set_limits(self) -> None:
        """Follow the instructions in the log of the service."""
        said = re.findall(r"(ALTER ROLE .*?;)", self.stack["api"].log.replace('\\"', '"'))
        assert {re.findall(r"SET (\S+) = '(\S+)'", line)[0] for line in said} == set(LIMITS.items())
        for line in said:
            self.execute(line)
        self.pooler.stop()
        self.pooler.start()

    def close(self) -> None:
        self.stack.close()
        self.pooler.close()


@pytest.fixture(params=[{}, IGNORED], ids=["options refused", "options ignored"])
def pooled(
    postgres: Postgres, rabbitmq: RabbitMQ, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Pooled]:
    """Give the service on a migrated database, with nothing started yet."""
    try:
        made = Pooled(postgres, rabbitmq, tmp_path, request.param)
    except Missing as missing:
        if os.environ.get("TESTS_REQUIRE_SERVERS"):
            raise
        pytest.skip(str(missing))
    try:
        yield made
    finally:
        made.close()


def count(log: str, text: str) -> int:
    return sum(text in line for line in log.splitlines())


@pytest.mark.parametrize("pooled", [{}], indirect=True)
def test_the_service_works_behind_a_pooler(pooled: Pooled) -> None:
    stack = pooled.stack
    stack.start("api")
    stack.start("worker")
    with stack.client() as client:
        message = client.post("/tasks/", json={"content": "Hello"}).json()["task_id"]
        state = stack.state(message, wait=MINUTE)
        assert state["status"] == "SUCCESS"
        result: Any = state["result"]
        assert result["created_at"].endswith("Z")
        assert client.get("/messages/").json() == {"messages": [result], "total": 1}
        retried = stack.post("/tasks/succeed_at_second_attempt", {"text": ""})
        assert stack.state(retried, wait=MINUTE)["result"] == {"text": "attempt 2"}
        batch = [{"name": "slow", "arguments": {"duration": 0}}] * 50
        accepted = client.post("/tasks/batch", json=batch)
        assert accepted.status_code == 202, accepted.text
        # Not through the pooler, which would keep the connection, without a name.
        eventually(lambda: pooled.execute(UNFINISHED) == [(0,)], MINUTE, "the batch has ended")
        key = {"Idempotency-Key": "once"}
        answers = [client.post("/tasks/", json={"content": "x"}, headers=key) for _ in range(2)]
        assert answers[0].json() == answers[1].json()
        slow = stack.post("/tasks/slow?duration=2")
        eventually(lambda: stack.state(slow)["status"] == "STARTED", 20, "the task runs")
        assert client.get("/tasks/").json()["tasks"] == [{"task_id": slow, "status": "ACTIVE"}]
        assert client.get("/health/ready").json() == {"status": "ready", "degraded": []}
        assert stack.state(slow, wait=MINUTE)["status"] == "SUCCESS"
        # Session settings are reset after a task, except the name: it identifies a dead worker.
        note = stack.post("/tasks/note", {"text": "written in a session"})
        assert stack.state(note, wait=MINUTE)["status"] == "SUCCESS"
    assert pooled.execute("SELECT * FROM pg_locks WHERE locktype = 'advisory'") == []
    nameless = (
        "SELECT query FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = '' AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        # The pooler may have opened a connection that no client has used yet.
        " AND query <> ''"
    )
    # This test's own connections have no name, and end shortly after they are closed.
    eventually(lambda: pooled.execute(nameless) == [], 5, "all open connections have a name")


def test_a_process_logs_once_what_a_pooler_does_not_support(pooled: Pooled) -> None:
    stack = pooled.stack
    stack.start("api")
    ready = f"{stack.url}/health/ready"
    eventually(
        lambda: "broker" not in httpx.get(ready).text,
        MINUTE,
        "all connections to the broker are open",
    )
    assert count(stack["api"].log, "ALTER ROLE") == 1
    assert count(stack["api"].log, "passes no NOTIFY on") == 1
    assert pooled.execute("SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%'") == []
    pooled.set_limits()
    stack.stop("api")
    again = stack.start("api", name="again")
    eventually(lambda: httpx.get(ready).status_code == 200, MINUTE, "the service is ready")
    assert "ALTER ROLE" not in again.log
    for name, value in LIMITS.items():
        assert stack.scalar(f"SHOW {name}") == value


@pytest.mark.parametrize("pooled", [{}], indirect=True)
def test_accepted_tasks_survive_kills_of_the_pooler(pooled: Pooled) -> None:
    stack = pooled.stack
    stack.start("api")
    stack.start("worker")
    posting = Posting(stack, 300).start()
    for share in (50, 150):
        eventually(lambda: len(posting.accepted) > share, MINUTE, "some tasks are accepted")  # noqa: B023
        pooled.pooler.stop()
        eventually(lambda: posting.unanswered, MINUTE, "a request has met the outage")
        pooled.pooler.start()
    posting.finish(2 * MINUTE)
    eventually(lambda: stack.unfinished() == 0, 2 * MINUTE, "all tasks have ended")
    rows = stack.query("SELECT task_id::text, content FROM messages")
    written = {task_id: content for task_id, content in rows if task_id in posting.accepted}
    assert written == posting.accepted
    assert len(rows) == len({task_id for task_id, _ in rows})
    assert httpx.get(f"{stack.url}/health/ready").json()["degraded"] == []


@pytest.mark.parametrize("pooled", [{}], indirect=True)
def test_a_frozen_worker_keeps_no_locks_through_a_pooler(pooled: Pooled, tmp_path: Path) -> None:
    stack = pooled.stack
    go = tmp_path / "go"
    stack.start("api")
    frozen = stack.start("worker", name="frozen", environment={"WORKER_CONCURRENCY": "1"})
    task_id = stack.post("/tasks/write_and_wait", {"text": str(go)})
    waiting = "SELECT pid FROM pg_stat_activity WHERE query LIKE '%INSERT INTO messages%'"
    waiting += " AND state = 'idle in transaction'"
    eventually(lambda: pooled.execute(waiting), MINUTE, "the task has written its message")
    for pid in [frozen.popen.pid, *frozen.children()]:
        os.kill(pid, signal.SIGSTOP)
    stack.start("worker", name="successor")
    eventually(lambda: stack.attempt(task_id) == 2, MINUTE, "the task has its second attempt")
    go.touch()
    assert stack.state(task_id, wait=MINUTE)["result"] == {"text": "attempt 2"}
