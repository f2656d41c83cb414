"""A PostgreSQL that answers and stores nothing: read-only, a standby, a full disk."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

import psycopg2
import pytest

from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.servers import Postgres
    from tests.support.stack import Stack

MINUTE = 60.0
MESSAGE = {"content": "Hello"}
ITEMS = [{"arguments": MESSAGE}] * 2
KEYED = {"Idempotency-Key": "read-only-1"}
NDJSON = {"Content-Type": "application/x-ndjson"}


def _execute(url: str, *statements: str) -> None:
    """Execute statements on a connection that may write, whatever the database's default is."""
    options = "-c default_transaction_read_only=off"
    connection = psycopg2.connect(url.replace("+psycopg2", ""), options=options)
    connection.autocommit = True
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
    connection.close()


@contextmanager
def by_default(stack: Stack, _postgres: Postgres) -> Iterator[None]:
    """Make the sessions that begin from now on read-only, as providers do for a full disk."""
    name = stack.database_url.rpartition("/")[2]
    alter = f"ALTER DATABASE {name}"
    terminate = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        f" WHERE datname = '{name}' AND pid <> pg_backend_pid()"
    )
    _execute(stack.database_url, f"{alter} SET default_transaction_read_only = on", terminate)
    try:
        yield
    finally:
        # Sessions that began meanwhile stay read-only: they have to be given up.
        _execute(stack.database_url, f"{alter} RESET default_transaction_read_only")


@contextmanager
def as_standby(_stack: Stack, postgres: Postgres) -> Iterator[None]:
    """Demote the server to a standby, which answers reads, and promote it again."""
    postgres.demote()
    try:
        yield
    finally:
        postgres.promote()


@pytest.mark.parametrize("read_only", [by_default, as_standby])
def test_a_read_only_postgresql_costs_no_attempt_and_each_route_says_so(
    odd_stack: Stack,
    postgres: Postgres,
    tmp_path: Path,
    read_only: Callable[[Stack, Postgres], AbstractContextManager[None]],
) -> None:
    stack, go = odd_stack, tmp_path / "go"
    stack.start("api")
    stack.start("worker", environment={"WORKER_CONCURRENCY": "3"})
    ended = stack.post("/tasks/", MESSAGE)
    assert stack.state(ended, wait=MINUTE)["status"] == "SUCCESS"
    # Of the two that write, one has written by then: it loses its connection.
    names = ("wait", "wait_and_write", "write_and_wait")
    for name in names:
        stack.post(f"/tasks/{name}", {"text": str(go)})
    started = "SELECT count(*) FROM tasks WHERE state = 'STARTED'"
    eventually(lambda: stack.scalar(started) == len(names), 10, "all have started")
    with read_only(stack, postgres), stack.client() as client:
        eventually(
            lambda: client.get(f"/tasks/{ended}").status_code == 200, 20, "reads are answered"
        )
        for path, body, headers in (
            ("/tasks/", MESSAGE, {}),
            ("/tasks/", MESSAGE, KEYED),
            ("/tasks/slow", None, {}),
            ("/tasks/batch", ITEMS, {}),
            ("/messages/", MESSAGE, {}),
        ):
            answer = client.post(path, json=body, headers=headers)
            assert answer.status_code == 503, f"{path}: {answer.text}"
            assert int(answer.headers["retry-after"]) > 0
            assert "read-only" in answer.json()["detail"]
        lines = "\n".join(json.dumps(item) for item in ITEMS)
        answer = client.post("/tasks/batch", content=lines, headers=NDJSON)
        assert answer.status_code == 202
        told = [json.loads(line)["status"] for line in answer.text.splitlines()]
        assert told == ["REFUSED"] * 2
        ready = client.get("/health/ready")
        assert ready.status_code == 503
        assert "read-only" in ready.json()["detail"]
        assert client.get("/tasks/").json()["total"] == len(names)
        assert client.get("/messages/").json()["total"] == 1
        go.touch()
        lost = "lost PostgreSQL"
        eventually(lambda: stack["worker"].log.count(lost) == 2, 20, "both that write met it")
    with stack.client() as client:
        eventually(
            lambda: client.post("/tasks/", json=MESSAGE, headers=KEYED).status_code == 202,
            MINUTE,
            "a task is accepted again",
        )
        eventually(lambda: client.get("/health/ready").status_code == 200, 10, "it is ready")
    eventually(lambda: stack.unfinished() == 0, MINUTE, "every task has ended")
    spent = stack.query(
        "SELECT state, max_attempts - attempt FROM tasks WHERE name LIKE '%%wait%%'"
    )
    assert spent == [("SUCCESS", 4)] * len(names)
    assert stack.scalar("SELECT count(*) FROM tasks") == 2 + len(names)
    assert stack.scalar("SELECT count(*) FROM outbox") == 0
    assert stack.scalar("SELECT count(*) FROM messages") == 4
    for name in ("api", "worker"):
        assert "Traceback" not in stack[name].log
