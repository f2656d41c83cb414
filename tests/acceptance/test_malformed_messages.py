"""Unreadable messages on every broker: logged once and dropped, and the worker continues."""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import kombu
import pytest

from tests.acceptance.conftest import NamedBroker
from tests.support.malformed import (
    BUNDLE,
    ENTRIES,
    GONE,
    MALFORMED,
    UNREADABLE_PROPERTIES,
    Sent,
    body_of,
    envelope,
    headers_of,
    nested,
)
from tests.support.stack import Stack, serving
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.servers import RabbitMQ

MINUTE = 60.0
QUEUES = ("tasks", "short_tasks")
ON_RABBITMQ = pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True, scope="module")
ON_VALKEY = pytest.mark.parametrize("broker", ["valkey"], indirect=True, scope="module")
LEVELS = ('"level": "warning"', '"level": "error"', '"level": "critical"')


class Valkey(NamedBroker):
    """The embedded broker, as `make run` starts it."""

    def left(self, queue: str) -> int:
        """Return how many messages wait in a queue or are not acknowledged."""
        with kombu.Connection(self.url) as connection:
            channel: Any = connection.default_channel  # missing in the stubs
            return int(channel._size(queue) + channel.client.hlen("unacked"))

    def client(self) -> Any:  # noqa: ANN401 - a client of redis-py's
        """Return a client of the server itself."""
        channel: Any = kombu.Connection(self.url).default_channel
        return channel.client


@pytest.fixture(scope="module", params=["rabbitmq", "valkey"])
def broker(request: pytest.FixtureRequest) -> RabbitMQ | Valkey:
    if request.param == "valkey":
        return Valkey(request.getfixturevalue("embedded_servers").broker_url)
    server: RabbitMQ = request.getfixturevalue("rabbitmq_server")
    return server


@pytest.fixture(scope="module")
def service(
    postgres_server: Any,  # noqa: ANN401 - Postgres
    broker: RabbitMQ | Valkey,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stack]:
    """Give one running service on each broker to the tests of this file."""
    folder = tmp_path_factory.mktemp("malformed")
    with serving(postgres_server, broker, folder, "api", "worker") as stack:
        yield stack


def left(broker: RabbitMQ | Valkey, queue: str) -> int:
    return broker.left(queue) if isinstance(broker, Valkey) else broker.queues()[queue]


def faults(log: str) -> list[str]:
    """Return the lines about malformed messages, without the line about stray messages."""
    lines = [line for line in log.splitlines() if any(level in line for level in LEVELS)]
    return [line for line in lines if "tasks that this database does not have" not in line]


def works(stack: Stack) -> None:
    """Check that the worker runs tasks of both queues."""
    assert stack["worker"].popen.poll() is None
    for task_id in (stack.post("/tasks/", {"content": "x"}), stack.post("/tasks/slow?duration=0")):
        assert stack.state(task_id, wait=MINUTE)["status"] == "SUCCESS"


def are_dropped(stack: Stack, broker: RabbitMQ | Valkey, send: Callable[[str], object]) -> None:
    """Send a malformed message to each queue; check that both are dropped and new tasks succeed."""
    worker = stack["worker"]
    before = len(worker.log)
    tasks = int(str(stack.scalar("SELECT count(*) FROM tasks")))
    for queue in QUEUES:
        send(queue)
    eventually(lambda: len(faults(worker.log[before:])) == 2, 10, "both messages are logged")
    for queue in QUEUES:
        eventually(lambda: left(broker, queue) == 0, 5, "the queue is empty")  # noqa: B023
    works(stack)
    assert stack.scalar("SELECT count(*) FROM tasks") == tasks + 2
    assert len(faults(worker.log[before:])) == 2, worker.log[before:]


@pytest.mark.parametrize("case", MALFORMED)
def test_an_unreadable_message_is_logged_and_dropped_and_the_worker_continues(
    service: Stack, broker: RabbitMQ | Valkey, case: str
) -> None:
    are_dropped(service, broker, partial(MALFORMED[case].publish, service.broker_url))


def test_arguments_that_cannot_be_pickled_do_not_stop_a_worker(
    service: Stack, broker: RabbitMQ | Valkey
) -> None:
    # From about 500 levels on, Python 3.11 can read such JSON but not pickle it.
    for depth in (300, 500, 700, 900):
        for queue in QUEUES:
            # As from another program: our messages have the arguments as a text.
            headers = headers_of(ledger_attempt=GONE)
            Sent(body_of(nested(depth)), headers).publish(service.broker_url, queue)
    for queue in QUEUES:
        eventually(lambda: left(broker, queue) == 0, 10, "the queue is empty")  # noqa: B023
    works(service)
    assert "nrecoverable" not in service["worker"].log


@ON_RABBITMQ
@pytest.mark.parametrize("case", UNREADABLE_PROPERTIES)
def test_a_message_with_unreadable_properties_is_logged_and_dropped(
    service: Stack, broker: RabbitMQ, case: str
) -> None:
    def send(queue: str) -> None:
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(20_000)  # to write such deep nesting
        try:
            UNREADABLE_PROPERTIES[case].publish(service.broker_url, queue)
        finally:
            sys.setrecursionlimit(limit)

    are_dropped(service, broker, send)


@ON_VALKEY
@pytest.mark.parametrize("case", ENTRIES)
def test_a_list_entry_that_is_no_message_is_logged_and_dropped(
    service: Stack, broker: Valkey, case: str
) -> None:
    are_dropped(service, broker, lambda queue: broker.client().rpush(queue, ENTRIES[case]))


@ON_VALKEY
@pytest.mark.parametrize("entry", [b"[]", b"7", b"{}", envelope(headers=["task"])])
def test_a_malformed_broadcast_does_not_stop_a_worker(
    service: Stack, broker: Valkey, entry: bytes
) -> None:
    worker = service["worker"]
    before = len(worker.log)
    assert broker.client().publish("/0.celery.pidbox", entry) == 1
    eventually(lambda: faults(worker.log[before:]), 10, "the malformed broadcast is logged")
    works(service)
    assert len(faults(worker.log[before:])) == 1


def enter(stack: Stack) -> str:
    """Insert a task that no relay will publish for an hour; return its id."""
    task_id = str(uuid4())
    # One statement, as the reconciler repairs a task that has no outbox row.
    stack.query(
        "WITH task AS ("
        " INSERT INTO tasks (id, name, args, max_attempts)"
        " VALUES (%s, 'insert_message', '{\"content\": \"mine\"}', 5) RETURNING id)"
        " INSERT INTO outbox (task_id, due_at) SELECT id, now() + interval '1 h' FROM task"
        " RETURNING 1",
        task_id,
    )
    return task_id


def row(task_id: object, **changes: object) -> dict[str, object]:
    good = {"attempt": 1, "name": "insert_message", "args": '{"content": "mine"}', "reply_to": None}
    return {"task_id": task_id, **good, **changes}


BAD_ROWS = {
    "null": None,
    "a number": 7,
    "a list": ["a"],
    "incomplete": {"task_id": 1},
    "of a later version": row(str(uuid4()), colour=1),
    "an invalid id": row("abc"),
    "an attempt that is a text": row(str(uuid4()), attempt="first"),
    "an attempt that is huge": row(str(uuid4()), attempt=2**40),
    "an unknown name": row(str(uuid4()), name="nobody_knows"),
    "a name that is a list": row(str(uuid4()), name=[]),
    "arguments that are an object": row(str(uuid4()), args={}),
    "a reply queue that is an object": row(str(uuid4()), reply_to={"a": 1}),
}
# Only the child would read these arguments, after a claim, which fails for unknown ids.
UNKNOWN_ROWS = {
    "arguments that are no JSON": row(str(uuid4()), args="{"),
    "arguments that are a list": row(str(uuid4()), args="[]"),
}


@pytest.mark.parametrize("case", [*BAD_ROWS, *UNKNOWN_ROWS])
def test_the_good_rows_of_a_bundle_with_bad_rows_run_once(
    service: Stack, broker: RabbitMQ | Valkey, case: str
) -> None:
    first, second = enter(service), enter(service)
    bad = {**BAD_ROWS, **UNKNOWN_ROWS}[case]
    rows = [row(first), bad, row(second), bad]
    worker = service["worker"]
    before = len(worker.log)
    sent = Sent(json.dumps(rows).encode(), {**BUNDLE, "bundle": 4})
    sent.publish(service.broker_url, "short_tasks")
    for task_id in (first, second):
        assert service.state(task_id, wait=MINUTE)["status"] == "SUCCESS"
        assert service.attempt(task_id) == 1
    eventually(lambda: left(broker, "short_tasks") == 0, 5, "the bundle is acknowledged")
    written = "SELECT count(*) FROM messages WHERE task_id = ANY(CAST(%s AS uuid[]))"
    assert service.scalar(written, [first, second]) == 2
    assert len(faults(worker.log[before:])) == (2 if case in BAD_ROWS else 0)
