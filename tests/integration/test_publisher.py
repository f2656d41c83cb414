"""Publishing to a RabbitMQ that reads nothing because of a memory or disk alarm."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support.stack import ROOT
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.servers import RabbitMQ

# For each line, compares an empty queue with five messages that it should have, and prints how many
# are missing.
COMPARE = """
import sys, threading
from collections import Counter
from backend.maintenance.republish import LostMessages
lost_messages = LostMessages(threading.Event())
for _ in sys.stdin:
    print(lost_messages._compare(Counter(tasks=5)).total(), flush=True)
"""
# For each line, publishes two messages and prints "confirmed" when the broker has confirmed them.
# Before each message py-amqp reads what the broker has sent. Here this finds nothing, so
# both messages are out, and the wait for the confirms has begun, when the alarm becomes known.
PUBLISH = """
import sys, threading
import amqp
from backend.broker.pack import pack
from backend.db.records import OutboxEntry
from backend.relay import publisher
publisher.CONFIRM_SECONDS = 3
read = amqp.Connection.drain_events
def read_late(connection, timeout=None):
    if timeout == 0:
        raise TimeoutError
    return read(connection, timeout)
amqp.Connection.drain_events = read_late
publishing = publisher.Publisher(threading.Event())
for _ in sys.stdin:
    publishing.publish(pack([OutboxEntry("an id", 1, "slow", "{}", None)] * 2, None))
    print("confirmed", flush=True)
"""


@contextmanager
def running(script: str, url: str) -> Iterator[Callable[[float], str]]:
    """Run a script; give a function that sends it a line and returns the answer, or "" if late."""
    environment = {
        **os.environ,
        "DATABASE_URL": "postgresql+psycopg2://nobody@127.0.0.1:9/none",
        "CELERY_BROKER_URL": url,
    }
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdin
        assert process.stdout
        stdin, stdout = process.stdin, process.stdout

        def ask(seconds: float = 30) -> str:
            print(file=stdin, flush=True)
            ready, _, _ = select.select([stdout], [], [], seconds)
            return stdout.readline().strip() if ready else ""

        try:
            yield ask
        finally:
            process.kill()


@pytest.fixture
def alarm(rabbitmq: RabbitMQ) -> Iterator[RabbitMQ]:
    """Give a RabbitMQ whose memory alarm is cleared at the end."""
    yield rabbitmq
    rabbitmq.set_alarm(False)


def test_no_message_is_treated_as_missing_during_an_alarm(alarm: RabbitMQ) -> None:
    with running(COMPARE, alarm.url) as compare:
        assert compare(30) == "5"
    alarm.set_alarm(True)
    # A new connection: RabbitMQ confirms the first message on it even now.
    with running(COMPARE, alarm.url) as compare:
        assert [compare(30) for _ in range(3)] == ["0", "0", "0"]
        alarm.set_alarm(False)
        eventually(lambda: compare(30) == "5", 10, "five messages are missing after the alarm")


def test_the_confirm_timeout_is_paused_during_an_alarm(alarm: RabbitMQ) -> None:
    with running(PUBLISH, alarm.url) as publish:
        assert publish(30) == "confirmed"
        alarm.set_alarm(True)
        assert publish(6) == ""  # longer than CONFIRM_SECONDS
        alarm.set_alarm(False)
        # The answers to the second and to the third.
        assert [publish(30), publish(30)] == ["confirmed", "confirmed"]
