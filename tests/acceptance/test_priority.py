"""Urgent tasks overtake thousands that wait, on both brokers; a lost message is published again."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from amqp.exceptions import ChannelError

from tests.support.broker_connection import connect
from tests.support.servers import RabbitMQ
from tests.support.stack import Stack
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.servers import Postgres, Redis

WAITING = 10_000
URGENT = 10
# The batch of 100 that each of the three processes runs, and the next two of each.
OVERTAKEN_BY = 3 * 3 * 100
SIZE = 1000


@pytest.fixture(params=["rabbitmq", "redis"])
def stack(request: pytest.FixtureRequest, postgres: Postgres, tmp_path: Path) -> Iterator[Stack]:
    """Give an API with a relay in it, on each broker."""
    broker: RabbitMQ | Redis = request.getfixturevalue(f"{request.param}_server")
    broker.start()
    with Stack(postgres.create_database(), broker.url, tmp_path) as made:
        made.start("api")
        yield made
    if isinstance(broker, RabbitMQ):
        broker.delete_all_queues()
    else:
        broker.stop()


def submit(stack: Stack, count: int, priority: int) -> list[str]:
    """Post message tasks of a priority; return their ids."""
    task = {"arguments": {"content": str(priority)}, "options": {"priority": priority}}
    answer = httpx.post(f"{stack.url}/tasks/batch", json=[task] * count, timeout=30)
    assert answer.status_code == 202, answer.text
    return [each["task_id"] for each in answer.json()["tasks"]]


def published(stack: Stack, ids: list[str]) -> bool:
    """Return whether all of these tasks were published, or have ended."""
    sql = """
        SELECT count(*) FROM outbox
        WHERE task_id = ANY(CAST(%s AS uuid[])) AND published_at IS NULL
    """
    return stack.scalar(sql, ids) == 0


def queued(stack: Stack) -> int:
    """Return how many messages wait."""
    with connect(stack.broker_url) as connection:
        channel: Any = connection.default_channel  # missing in the stubs
        try:
            return int(channel.queue_declare("short_tasks", passive=True).message_count)
        except ChannelError:  # on Redis an empty list does not exist
            return 0


def messages(stack: Stack) -> int:
    """Return how many tasks have written their message."""
    return int(str(stack.scalar("SELECT count(*) FROM messages")))


def test_urgent_short_tasks_are_done_within_the_next_two_batches_of_each_process(
    stack: Stack,
) -> None:
    for _ in range(WAITING // SIZE):
        waiting = submit(stack, SIZE, 4)
    eventually(lambda: published(stack, waiting), 30, "all are published")
    worker = stack.start("worker")
    eventually(lambda: messages(stack) > SIZE, 30, "the worker works")
    # Frozen, so that nothing is done between the look and the arrival of the urgent tasks.
    os.killpg(worker.popen.pid, signal.SIGSTOP)
    eventually(lambda: queued(stack) == queued(stack), 10, "the queue does not change")
    before, others = messages(stack), queued(stack)
    urgent = submit(stack, URGENT, 9)
    eventually(lambda: queued(stack) > others, 10, "the urgent ones are in the queue")
    os.killpg(worker.popen.pid, signal.SIGCONT)
    eventually(lambda: messages(stack) == WAITING + URGENT, 60, "all are done")
    sql = """
        SELECT count(*) FROM messages
        WHERE id < (SELECT max(id) FROM messages WHERE task_id = ANY(CAST(%s AS uuid[])))
    """
    assert int(str(stack.scalar(sql, urgent))) <= before + OVERTAKEN_BY + URGENT


def test_a_lost_message_is_published_again_while_three_priorities_wait(stack: Stack) -> None:
    tasks = {priority: submit(stack, 50, priority) for priority in (0, 4, 9)}
    everything = [task_id for ids in tasks.values() for task_id in ids]
    eventually(lambda: published(stack, everything), 10, "all are published")
    with connect(stack.broker_url) as connection:
        channel: Any = connection.default_channel  # missing in the stubs
        message = channel.basic_get("short_tasks", no_ack=True)
        assert message is not None
    eventually(
        lambda: stack.scalar("SELECT max(publishes) FROM outbox WHERE priority = 9") == 2,
        60,
        "the message with the urgent tasks is published again",
    )
    stack.start("worker")
    eventually(lambda: stack.unfinished() == 0, 60, "all have ended")
    assert messages(stack) == 150
