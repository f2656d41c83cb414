"""Many large tasks at once: a relay publishes all of them with bounded memory."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.broker_connection import connect
from tests.support.stack import Stack
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.support.servers import Postgres, RabbitMQ, Redis
    from tests.support.stack import Process

COUNT = 100
MEBIBYTES = 60


def peak(process: Process) -> int:
    """Return the peak memory of a process in MiB."""
    status = Path(f"/proc/{process.popen.pid}/status").read_text()
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+)", status)
    return int(kilobytes) // 1024


def insert(stack: Stack, count: int) -> None:
    """Accept tasks with arguments of 1 MiB, which PostgreSQL compresses."""
    stack.query(
        "WITH new AS (INSERT INTO tasks (id, name, args, max_attempts)"
        "  SELECT gen_random_uuid(), 'slow',"
        "    json_build_object('text', repeat(md5(n::text), 32768)), 3"
        "  FROM generate_series(1, %s) n RETURNING id)"
        " INSERT INTO outbox (task_id) SELECT id FROM new RETURNING 1",
        count,
    )


def published(stack: Stack) -> object:
    return stack.scalar("SELECT count(*) FROM outbox WHERE publishes = 1")


@pytest.mark.parametrize("server", ["rabbitmq_server", "redis_server"])
def test_a_relay_publishes_many_large_tasks_with_bounded_memory(
    request: pytest.FixtureRequest, postgres: Postgres, tmp_path: Path, server: str
) -> None:
    broker: RabbitMQ | Redis = request.getfixturevalue(server)
    broker.start()
    with Stack(postgres.create_database(), broker.url, tmp_path) as stack:
        relay = stack.start("relay")
        insert(stack, 1)
        eventually(lambda: published(stack) == 1, 20, "the relay publishes")
        before = peak(relay)
        insert(stack, COUNT - 1)
        eventually(lambda: published(stack) == COUNT, 30, "all tasks are published")
        assert peak(relay) - before < MEBIBYTES
        with connect(broker.url) as connection:
            channel: Any = connection.default_channel  # missing in the stubs
            arrived = 0

            def all_arrived() -> bool:
                nonlocal arrived
                arrived += int(channel.queue_purge("tasks"))
                return arrived == COUNT

            eventually(all_arrived, 10, "each message is in the queue once")
