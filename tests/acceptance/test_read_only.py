"""A PostgreSQL that answers but stores nothing: read-only, a standby, or with a full disk."""

from __future__ import annotations

import json
import subprocess
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING

import psycopg2
import pytest

from tests.support.servers import Postgres
from tests.support.stack import Stack
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import httpx

    from tests.support.servers import RabbitMQ

MINUTE = 60.0
MESSAGE = {"content": "Hello"}
ITEMS = [{"arguments": MESSAGE}] * 2
KEYED = {"Idempotency-Key": "read-only-1"}
NDJSON = {"Content-Type": "application/x-ndjson"}


def _execute(url: str, *statements: str) -> None:
    """Execute statements on a connection that may write, also in a read-only database."""
    options = "-c default_transaction_read_only=off"
    connection = psycopg2.connect(url.replace("+psycopg2", ""), options=options)
    connection.autocommit = True
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
    connection.close()


@contextmanager
def by_default(stack: Stack, _postgres: Postgres) -> Iterator[None]:
    """Make new sessions read-only, as providers do when a disk is full."""
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
        # Sessions that began meanwhile stay read-only; the service must close them.
        _execute(stack.database_url, f"{alter} RESET default_transaction_read_only")


@contextmanager
def as_standby(_stack: Stack, postgres: Postgres) -> Iterator[None]:
    """Demote the server to a standby, which answers reads, and promote it again."""
    postgres.demote()
    try:
        yield
    finally:
        postgres.promote()


def check_refusals(client: httpx.Client) -> None:
    """Send all writing requests and ask for readiness: each reports a read-only PostgreSQL."""
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


def wait_for_writes(stack: Stack) -> None:
    """Wait until a task is accepted again, readiness says so, and every task has ended."""
    with stack.client() as client:
        eventually(
            lambda: client.post("/tasks/", json=MESSAGE, headers=KEYED).status_code == 202,
            MINUTE,
            "a task is accepted again",
        )
        eventually(
            lambda: client.get("/health/ready").status_code == 200, 10, "the service is ready"
        )
    eventually(lambda: stack.unfinished() == 0, MINUTE, "every task has ended")


@pytest.mark.parametrize("read_only", [by_default, as_standby])
def test_a_read_only_postgresql_costs_no_attempt_and_each_write_route_reports_it(
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
    # One of the two writing tasks has written by then: it loses its connection.
    names = ("wait", "wait_and_write", "write_and_wait")
    for name in names:
        stack.post(f"/tasks/{name}", {"text": str(go)})
    started = "SELECT count(*) FROM tasks WHERE state = 'STARTED'"
    eventually(lambda: stack.scalar(started) == len(names), 10, "all tasks have started")
    with read_only(stack, postgres), stack.client() as client:
        eventually(
            lambda: client.get(f"/tasks/{ended}").status_code == 200, 20, "reads are answered"
        )
        check_refusals(client)
        assert client.get("/tasks/").json()["total"] == len(names)
        assert client.get("/messages/").json()["total"] == 1
        go.touch()
        lost = "lost PostgreSQL"
        eventually(lambda: stack["worker"].log.count(lost) == 2, 20, "both tasks met the error")
    wait_for_writes(stack)
    spent = stack.query(
        "SELECT state, max_attempts - attempt FROM tasks WHERE name LIKE '%%wait%%'"
    )
    assert spent == [("SUCCESS", 4)] * len(names)
    assert stack.scalar("SELECT count(*) FROM tasks") == 2 + len(names)
    assert stack.scalar("SELECT count(*) FROM outbox") == 0
    assert stack.scalar("SELECT count(*) FROM messages") == 4
    for name in ("api", "worker"):
        assert "Traceback" not in stack[name].log


@pytest.fixture
def small_disk() -> Iterator[tuple[str, Path]]:
    """Give the URL of a database on a disk of 24 MiB, and the disk; skip if mounting fails."""
    with Postgres() as postgres:
        disk = postgres.directory / "small"
        disk.mkdir()
        owner = postgres.directory.stat()
        options = f"size=24m,mode=0700,uid={owner.st_uid},gid={owner.st_gid}"
        mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("only root may mount a small disk")
        try:
            url = postgres.create_database()
            _execute(postgres.url, f"CREATE TABLESPACE small LOCATION '{disk}'")
            name = url.rpartition("/")[2]
            _execute(postgres.url, f"ALTER DATABASE {name} SET TABLESPACE small")
            yield url, disk
        finally:
            postgres.stop("immediate")
            subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_reported_until_there_is_space(
    small_disk: tuple[str, Path], rabbitmq: RabbitMQ, tmp_path: Path
) -> None:
    url, disk = small_disk
    with Stack(url, rabbitmq.url, tmp_path) as stack, stack.client() as client:
        stack.start("api")
        before = [stack.post("/tasks/", {"content": f"before {number}"}) for number in range(3)]
        assert client.get("/health/ready").status_code == 200
        filler = disk / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(b"x" * 4096):
                pass
        # Rows that fit into existing pages are still stored.
        refused = eventually(lambda: _refused(client), MINUTE, "a task is refused")
        assert refused.status_code == 503
        assert "disk is full" in refused.json()["detail"]
        assert int(refused.headers["retry-after"]) > 0
        for _ in range(3):
            ready = client.get("/health/ready")
            assert ready.status_code == 503
            assert "disk is full" in ready.json()["detail"]
        stack.query("UPDATE tasks SET progress = '1/2' RETURNING 1")  # small changes still work
        assert client.get(f"/tasks/{before[0]}").status_code == 200
        filler.unlink()
        # Nothing was submitted since: the write check of readiness finds the space.
        assert client.get("/health/ready").status_code == 200
        assert client.post("/tasks/", json=MESSAGE).status_code == 202
        stack.start("worker")
        eventually(lambda: stack.unfinished() == 0, MINUTE, "every task has ended")
        assert "Traceback" not in stack["api"].log


def _refused(client: httpx.Client) -> httpx.Response | None:
    answer = client.post("/tasks/batch", json=[{"arguments": {"content": "x" * 1000}}] * 20)
    return None if answer.status_code == 202 else answer
