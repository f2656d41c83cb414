"""A server that refuses the service: each process logs the reason once, and works afterwards."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import httpx
import psycopg2
import pytest

from tests.support.ports import free_port
from tests.support.stack import Stack
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.servers import Postgres, RabbitMQ, Redis

MINUTE = 60.0
WATCHED_SECONDS = 3.0
SECRET = "secret-word"


@dataclass
class Refusal:
    """A broker that refuses: its address, the logged reason, and how to end the refusal."""

    url: str
    reason: str
    end: Callable[[], object]


def wrong_password(rabbitmq: RabbitMQ) -> Refusal:
    rabbitmq.set_password("refused", "another")
    rabbitmq.allow("refused")
    return Refusal(
        rabbitmq.url.replace("guest:guest", f"refused:{SECRET}"),
        "the broker refuses the login (ACCESS_REFUSED - Login was refused using authentication"
        " mechanism PLAIN): check user and password in CELERY_BROKER_URL",
        lambda: rabbitmq.set_password("refused", SECRET),
    )


def no_permission(rabbitmq: RabbitMQ) -> Refusal:
    rabbitmq.set_password("powerless", SECRET)
    rabbitmq.allow("powerless", configure="^$")
    return Refusal(
        rabbitmq.url.replace("guest:guest", f"powerless:{SECRET}"),
        "the broker refuses permission (ACCESS_REFUSED - access to",
        lambda: rabbitmq.allow("powerless"),
    )


def no_password(redis: Redis) -> Refusal:
    redis.set_password(SECRET)
    return Refusal(
        redis.url,
        "the broker refuses the login (Authentication required): check user and password",
        lambda: redis.set_password(""),
    )


def out_of_memory(redis: Redis) -> Refusal:
    redis.command("CONFIG", "SET", "maxmemory", "1")
    return Refusal(
        redis.url,
        "the broker is out of memory (command not allowed when used memory > 'maxmemory'): raise",
        lambda: redis.command("CONFIG", "SET", "maxmemory", "0"),
    )


def read_only(redis: Redis) -> Refusal:
    redis.command("REPLICAOF", "127.0.0.1", "9")
    return Refusal(
        redis.url,
        "the broker is a read-only replica (",
        lambda: redis.command("REPLICAOF", "NO", "ONE"),
    )


@pytest.fixture
def redis(redis_server: Redis) -> Iterator[Redis]:
    redis_server.start()
    yield redis_server
    redis_server.set_password("")
    redis_server.stop()


@pytest.fixture(params=[wrong_password, no_permission, no_password, out_of_memory, read_only])
def refusal(request: pytest.FixtureRequest) -> Refusal:
    (server,) = request.param.__annotations__.keys() - {"return"}
    refusal: Refusal = request.param(request.getfixturevalue(server))
    return refusal


def events(stack: Stack, name: str, level: str) -> list[str]:
    """Return what a process has logged with this level."""
    lines = [json.loads(line) for line in stack[name].log.splitlines() if line.startswith("{")]
    return [line["event"] for line in lines if line["level"] == level]


def about(stack: Stack, name: str, server: str) -> list[str]:
    """Return a process's warnings about a server; check that its log has no secret and no error."""
    assert "Traceback" not in stack[name].log
    assert SECRET not in stack[name].log
    assert not events(stack, name, "error") + events(stack, name, "critical")
    return [line for line in events(stack, name, "warning") if line.startswith(server)]


def logs_the_end(stack: Stack, name: str, server: str) -> bool:
    """Return whether a process has logged exactly once that a server can be used again."""
    return [line.startswith(server) for line in events(stack, name, "info")].count(True) == 1


def each_logs_once(stack: Stack, names: list[str], reason: str) -> None:
    """Check that each process logs the reason within seconds, and then nothing more for a while."""
    for name in names:
        found = eventually(partial(about, stack, name, reason), 20, f"{name} logs why")
        assert len(found) == 1
    sizes = {name: len(stack[name].log) for name in names}
    time.sleep(WATCHED_SECONDS)  # nothing may be logged in this time
    assert sizes == {name: len(stack[name].log) for name in names}


def test_each_process_logs_one_line_while_the_broker_refuses_it_and_then_recovers(
    postgres: Postgres, refusal: Refusal, tmp_path: Path
) -> None:
    with Stack(postgres.create_database(), refusal.url, tmp_path) as stack:
        stack.start("api", "--no-relay")
        stack.start("relay")
        stack.launch("worker")
        names = ["api", "relay", "worker"]
        task_id = stack.post("/tasks/slow?duration=0")
        each_logs_once(stack, names, refusal.reason)
        refusal.end()
        assert stack.state(task_id, wait=MINUTE)["status"] == "SUCCESS"
        for name in names:
            eventually(partial(logs_the_end, stack, name, "the broker"), 20, f"{name} logs the end")
            assert len(about(stack, name, "the broker")) == 1


def test_two_reasons_for_a_refusal_are_two_log_lines(
    postgres: Postgres, rabbitmq: RabbitMQ, tmp_path: Path
) -> None:
    rabbitmq.set_password("twice", "another")
    url = rabbitmq.url.replace("guest:guest", f"twice:{SECRET}")
    with Stack(postgres.create_database(), url, tmp_path) as stack:
        stack.start("api")
        each_logs_once(stack, ["api"], "the broker refuses the login")
        rabbitmq.set_password("twice", SECRET)
        eventually(
            lambda: about(stack, "api", "the broker refuses permission"),
            20,
            "the second reason is logged",
        )
        rabbitmq.allow("twice")
        eventually(
            lambda: "can be used again" in stack["api"].log,
            30,
            "the API logs that the broker can be used again",
        )
        assert len(about(stack, "api", "the broker")) == 2


def test_flower_logs_once_that_the_broker_refuses_it(
    postgres: Postgres, rabbitmq: RabbitMQ, tmp_path: Path
) -> None:
    refusal = wrong_password(rabbitmq)
    port = free_port()
    with Stack(postgres.create_database(), refusal.url, tmp_path) as stack:
        stack.launch("flower", environment={"FLOWER_PORT": str(port)})
        each_logs_once(stack, ["flower"], refusal.reason)
        refusal.end()
        eventually(
            lambda: "can be used again" in stack["flower"].log,
            30,
            "Flower logs that the broker can be used again",
        )
        stack.start("worker")
        eventually(
            lambda: "tasks-" in httpx.get(f"http://127.0.0.1:{port}/workers", timeout=10).text,
            20,
            "Flower shows the worker",
        )


def test_each_process_logs_one_line_while_postgresql_refuses_it(
    postgres: Postgres, rabbitmq: RabbitMQ, tmp_path: Path
) -> None:
    url = postgres.create_database()
    name = url.rpartition("/")[2]
    with Stack(url, rabbitmq.url, tmp_path) as stack:
        rename(postgres, name, "elsewhere")
        stack.start("api", "--no-relay")
        stack.start("relay")
        stack.start("worker")
        names = ["api", "relay", "worker"]
        answer = httpx.post(f"{stack.url}/tasks/slow?duration=0", timeout=10)
        assert answer.status_code == 503
        reason = f'PostgreSQL does not have the database (database "{name}" does not exist): create'
        each_logs_once(stack, names, reason)
        rename(postgres, "elsewhere", name)
        eventually(lambda: stack.unfinished() == 0, 10, "all tasks have ended after the outage")
        task_id = stack.post("/tasks/slow?duration=0")
        assert stack.state(task_id, wait=MINUTE)["status"] == "SUCCESS"
        for process in names:
            logged = partial(logs_the_end, stack, process, "PostgreSQL")
            # For the API the outage ends with its next success.
            eventually(lambda: stack.state(task_id) and logged(), 10, f"{process} logs the end")  # noqa: B023 - called here
            assert len(about(stack, process, "PostgreSQL")) == 1


def rename(postgres: Postgres, before: str, after: str) -> None:
    """Rename a database, once its connections have ended."""
    connection = psycopg2.connect(postgres.url.replace("+psycopg2", ""))
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER DATABASE {before} RENAME TO {after}")
    connection.close()
