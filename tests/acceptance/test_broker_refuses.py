"""A broker that accepts no messages: an alarm blocks all queues, a full queue refuses its own."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import kombu
import pytest

from tests.support.broker_connection import connect
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.servers import RabbitMQ, Redis
    from tests.support.stack import Stack

MINUTE = 60.0
ALARM = "the broker has an alarm and blocks publishing"
# A relay waits 10 s for confirms: an alarm has to last longer than two of these waits.
ALARM_SECONDS = 25.0
# An API process with its relay has them for replies, `inspect`, the relay and the reconciler.
API_CONNECTIONS = 4
RELAY_CONNECTIONS = 2
# How many messages the queue `tasks` should have.
MESSAGES = (
    "SELECT count(*) FROM"
    " (SELECT FROM outbox WHERE queue = 'tasks' GROUP BY published_at, xmin) messages"
)


@contextmanager
def alarm(rabbitmq: RabbitMQ) -> Iterator[None]:
    """Keep the memory alarm raised."""
    rabbitmq.set_alarm(True)
    try:
        yield
    finally:
        rabbitmq.set_alarm(False)


@contextmanager
def refusing(rabbitmq: RabbitMQ, queue: str) -> Iterator[None]:
    """Let a queue refuse every message by a negative acknowledgement."""
    rabbitmq.eval(
        f'rabbit_policy:set(<<"/">>, <<"full">>, <<"^{queue}$">>,'
        ' [{<<"max-length">>, 0}, {<<"overflow">>, <<"reject-publish">>}],'
        ' 0, <<"queues">>, <<"tests">>)'
    )
    try:
        yield
    finally:
        rabbitmq.eval('rabbit_policy:delete(<<"/">>, <<"full">>, <<"tests">>)')


def connections(rabbitmq: RabbitMQ) -> int:
    return int(rabbitmq.eval("length(rabbit_networking:connections())"))


def degraded(stack: Stack) -> list[str]:
    answer = httpx.get(f"{stack.url}/health/ready", timeout=10)
    assert answer.status_code == 200, answer.text
    named: list[str] = answer.json()["degraded"]
    return named


def post_many(stack: Stack, name: str, arguments: dict[str, object], count: int) -> None:
    """Post `count` equal tasks in one request."""
    items = [{"name": name, "arguments": arguments}] * count
    answer = httpx.post(f"{stack.url}/tasks/batch", json=items, timeout=20)
    assert answer.status_code == 202, answer.text


def unclaimed(stack: Stack, where: str) -> int:
    return int(str(stack.scalar(f"SELECT count(*) FROM outbox WHERE {where}")))


def holds_for(condition: Any, seconds: float, what: str) -> None:  # noqa: ANN401 - a condition
    """Check the condition every second for `seconds`; fail when it is false."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert condition(), what
        time.sleep(1)  # the condition must stay true


@pytest.mark.timeout(300)
def test_an_alarm_leaks_no_connection_and_nothing_is_published_twice(
    stack: Stack, rabbitmq: RabbitMQ
) -> None:
    stack.start("api")
    stack.start("relay")
    eventually(lambda: "tasks" in rabbitmq.queues(), 10, "a relay has connected")
    with alarm(rabbitmq):
        begin = time.monotonic()
        # More than one batch of the relay, and more bytes than the buffers of a connection hold.
        post_many(stack, "insert_message", {"content": "x" * 900}, 900)
        post_many(stack, "slow", {"duration": 0}, 600)
        eventually(
            lambda: any(ALARM in stack[name].log for name in ("api", "relay")),
            5,
            "a relay has logged the alarm",
        )
        taken = unclaimed(stack, "published_at IS NOT NULL")
        assert taken <= 1000, "each relay takes one batch at most"
        holds_for(
            lambda: connections(rabbitmq) <= API_CONNECTIONS + RELAY_CONNECTIONS,
            ALARM_SECONDS - (time.monotonic() - begin),
            "no part opens a second connection",
        )
        assert unclaimed(stack, "published_at IS NOT NULL") == taken
        assert unclaimed(stack, "publishes > 1") == 0
    eventually(lambda: unclaimed(stack, "published_at IS NULL") == 0, 10, "all tasks are published")
    eventually(lambda: rabbitmq.queues()["tasks"] == stack.scalar(MESSAGES), 10, "all are there")
    # The reconciler compares every 2 s, and acts after two equal results.
    holds_for(lambda: unclaimed(stack, "publishes <> 1") == 0, 7, "each is published once")
    assert rabbitmq.queues()["tasks"] == stack.scalar(MESSAGES)
    assert connections(rabbitmq) <= API_CONNECTIONS + RELAY_CONNECTIONS
    stack.start("worker")
    eventually(lambda: stack.unfinished() == 0, MINUTE, "all tasks have ended")
    assert stack.query("SELECT state, attempt, count(*) FROM tasks GROUP BY 1, 2") == [
        ("SUCCESS", 1, 1500)
    ]
    assert degraded(stack) == []
    for name in ("api", "relay"):
        assert stack[name].log.count(ALARM) <= 1, "one line for each alarm"
        assert "go back to the outbox" not in stack[name].log


def test_health_reports_an_alarm_while_it_lasts(stack: Stack, rabbitmq: RabbitMQ) -> None:
    stack.start("api")
    stack.start("worker")
    first = stack.post("/tasks/slow?duration=0")
    assert stack.state(first, wait=MINUTE)["status"] == "SUCCESS"
    with alarm(rabbitmq):
        waiting = stack.post("/tasks/slow?duration=0")
        said = eventually(lambda: degraded(stack), 5, "health reports the alarm")
        assert [ALARM in line for line in said] == [True]
        assert "run when it has cleared" in said[0]
        assert stack.state(waiting)["status"] == "PENDING"
    assert stack.state(waiting, wait=MINUTE)["status"] == "SUCCESS"
    eventually(lambda: degraded(stack) == [], 10, "health reports nothing")


def test_health_without_a_relay_says_that_an_alarm_may_be_the_reason(
    stack: Stack, rabbitmq: RabbitMQ
) -> None:
    stack.start("api", "--no-relay")
    stack.start("worker")
    stack.start("relay")
    eventually(lambda: "tasks" in rabbitmq.queues(), 10, "the relay has connected")
    with alarm(rabbitmq):
        post_many(stack, "slow", {"duration": 0}, 520)
        said = eventually(lambda: degraded(stack), 15, "health reports the alarm")
        assert "alarm" in said[0]
    eventually(lambda: stack.unfinished() == 0, MINUTE, "all tasks have ended")
    eventually(lambda: degraded(stack) == [], 10, "health reports nothing")


def test_a_blocked_relay_stops_in_time_and_its_rows_are_published_later(
    stack: Stack, rabbitmq: RabbitMQ
) -> None:
    stack.start("api", "--no-relay")
    stack.start("relay")
    eventually(lambda: "tasks" in rabbitmq.queues(), 10, "the relay has connected")
    with alarm(rabbitmq):
        post_many(stack, "slow", {"duration": 0}, 50)
        eventually(lambda: ALARM in stack["relay"].log, 5, "the relay has logged the alarm")
        begin = time.monotonic()
        stack.stop("relay")
        assert time.monotonic() - begin < 5
        assert unclaimed(stack, "published_at IS NULL") == 50
        relay = stack.start("relay")
        # A new relay takes no rows until it knows that the broker is not blocked.
        eventually(lambda: ALARM in relay.log, 10, "the next relay has logged the alarm")
        assert unclaimed(stack, "published_at IS NULL") == 50
    stack.start("worker")
    eventually(lambda: stack.unfinished() == 0, MINUTE, "all tasks have ended")
    assert stack.query("SELECT state, attempt, count(*) FROM tasks GROUP BY 1, 2") == [
        ("SUCCESS", 1, 50)
    ]


def test_a_blocked_relay_notices_that_the_broker_is_gone(stack: Stack, rabbitmq: RabbitMQ) -> None:
    stack.start("api")
    eventually(lambda: "tasks" in rabbitmq.queues(), 10, "the relay has connected")
    with alarm(rabbitmq):
        task_id = stack.post("/tasks/slow?duration=0")
        eventually(lambda: ALARM in stack["api"].log, 5, "the relay has logged the alarm")
        rabbitmq.restart()
        rabbitmq.set_alarm(True)
        eventually(
            lambda: unclaimed(stack, "published_at IS NULL"),
            10,
            "the task is unpublished in the outbox",
        )
    stack.start("worker")
    assert stack.state(task_id, wait=MINUTE)["status"] == "SUCCESS"


def test_a_queue_that_refuses_messages_does_not_delay_other_queues(
    stack: Stack, rabbitmq: RabbitMQ
) -> None:
    api = stack.start("api")
    eventually(lambda: "tasks" in rabbitmq.queues(), 10, "the relay has connected")
    with refusing(rabbitmq, "tasks"):
        post_many(stack, "slow", {"duration": 0}, 700)
        eventually(lambda: "refuses" in api.log, 5, "the relay has logged the refusal")
        stack.start("worker")
        # Several times: the refused tasks are always the older ones.
        for _ in range(5):
            begin = time.monotonic()
            task_id = stack.post("/tasks/", {"content": "Hello"})
            assert stack.state(task_id, wait=MINUTE)["status"] == "SUCCESS"
            assert time.monotonic() - begin < 5
        assert stack.unfinished() == 700
    eventually(lambda: stack.unfinished() == 0, MINUTE, "all tasks have ended")
    assert stack.query("SELECT DISTINCT state, attempt FROM tasks") == [("SUCCESS", 1)]
    assert api.log.count("refuses") == 1


@pytest.fixture(params=["rabbitmq_server", "redis_server"])
def any_stack(request: pytest.FixtureRequest, stack: Stack) -> Stack:
    """Give the service on each kind of broker."""
    broker: RabbitMQ | Redis = request.getfixturevalue(request.param)
    broker.start()
    stack.broker_url = broker.url
    return stack


def test_foreign_messages_in_one_queue_do_not_hide_losses_in_another(any_stack: Stack) -> None:
    any_stack.start("api")
    tasks = [any_stack.post("/tasks/slow?duration=0") for _ in range(3)]
    eventually(
        lambda: unclaimed(any_stack, "published_at IS NOT NULL") == 3,
        10,
        "the three tasks are published",
    )
    with connect(any_stack.broker_url) as connection:
        channel: Any = connection.default_channel  # missing in the stubs
        producer = kombu.Producer(channel)
        for _ in range(20):
            producer.publish({"not": "ours"}, routing_key="short_tasks")
        eventually(lambda: channel.queue_purge("tasks") == 3, 10, "the broker loses the messages")
        any_stack.query(
            "UPDATE outbox SET published_at = published_at - interval '11 s' RETURNING task_id"
        )
        eventually(
            lambda: unclaimed(any_stack, "publishes = 2") == 3,
            10,
            "the three tasks are published again",
        )
        channel.queue_purge("short_tasks")
    any_stack.start("worker")
    for task_id in tasks:
        assert any_stack.state(task_id, wait=MINUTE)["status"] == "SUCCESS"
