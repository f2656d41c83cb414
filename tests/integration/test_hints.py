"""Hints are dropped within seconds while the broker reads nothing, and are sent afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import kombu
import pytest

from tests.support.stack import ROOT
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.servers import RabbitMQ, Redis

# For each number in its input: sends this many messages of 1 kB, and prints the seconds it took.
SEND = """
import sys, time
from kombu import Queue
from backend.broker.hints import Hints
hints, body = Hints(), {"text": 1000 * "x"}
for line in sys.stdin:
    begin = time.monotonic()
    for _ in range(int(line)):
        hints.send(lambda producer: producer.publish(
            body, exchange="", routing_key="hints", declare=[Queue("hints", exchange="")]
        ))
    print(time.monotonic() - begin, flush=True)
"""


@contextmanager
def sender(url: str) -> Iterator[Callable[[int], float]]:
    """Give a function that sends messages through Hints and returns the seconds it took."""
    environment = {
        **os.environ,
        "DATABASE_URL": "postgresql+psycopg2://nobody@127.0.0.1:9/none",
        "CELERY_BROKER_URL": url,
    }
    with subprocess.Popen(
        [sys.executable, "-c", SEND],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin
        assert process.stdout
        stdin, stdout = process.stdin, process.stdout

        def send(count: int) -> float:
            print(count, file=stdin, flush=True)
            line = stdout.readline()
            while not line[0].isdigit():  # what it logs
                line = stdout.readline()
            return float(line)

        yield send
        stdin.close()


def received(url: str) -> int:
    """Return how many messages have arrived."""
    with kombu.Connection(url, connect_timeout=5) as connection:
        channel: Any = connection.default_channel  # missing in the stubs
        return int(channel.queue_declare("hints", passive=True).message_count)


@pytest.mark.parametrize("outage", ["alarm", "frozen"])
def test_hints_do_not_wait_for_a_rabbitmq_that_reads_nothing(
    rabbitmq: RabbitMQ, outage: str
) -> None:
    with sender(rabbitmq.url) as send:
        send(10)
        eventually(lambda: received(rabbitmq.url) == 10, 10, "the first ten messages have arrived")
        rabbitmq.set_alarm(True) if outage == "alarm" else rabbitmq.freeze()
        try:
            seconds = send(20_000)
        finally:
            rabbitmq.thaw()
            rabbitmq.set_alarm(False)
        assert seconds < 5
        before = received(rabbitmq.url)
        eventually(lambda: send(1) and received(rabbitmq.url) > before, 20, "messages arrive again")


def test_hints_do_not_wait_for_a_redis_that_does_not_answer(redis_server: Redis) -> None:
    redis_server.start()
    with sender(redis_server.url) as send:
        send(10)
        assert received(redis_server.url) == 10
        redis_server.freeze()
        try:
            seconds = send(20_000)
        finally:
            redis_server.thaw()
        assert seconds < 5
        before = received(redis_server.url)
        eventually(
            lambda: send(1) and received(redis_server.url) > before, 20, "messages arrive again"
        )
    redis_server.stop()
