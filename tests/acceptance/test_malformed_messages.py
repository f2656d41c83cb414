"""Messages that cannot be read, on every broker: logged once and dropped, and work goes on."""

from __future__ import annotations

import base64
import json
import pickle
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import kombu
import pytest

from tests.acceptance.conftest import NamedBroker
from tests.support.stack import Stack, serving
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.servers import RabbitMQ

MINUTE = 60.0
QUEUES = ("tasks", "short_tasks")
GONE = object()
ON_RABBITMQ = pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True, scope="module")
ON_VALKEY = pytest.mark.parametrize("broker", ["valkey"], indirect=True, scope="module")
LEVELS = ('"level": "warning"', '"level": "error"', '"level": "critical"')


def body_of(args: object = (), kwargs: object = None, *rest: object) -> bytes:
    embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    kwargs = {"content": "x"} if kwargs is None else kwargs
    return json.dumps([args, kwargs, *(rest or [embed])]).encode()


def headers_of(**changes: object) -> dict[str, Any]:
    task_id = str(uuid4())
    usual: dict[str, object] = {"lang": "py", "task": "insert_message", "id": task_id, "attempt": 1}
    return {name: value for name, value in (usual | changes).items() if value is not GONE}


@dataclass(frozen=True)
class Sent:
    """A message as a client publishes it; what is not named is as in a good one."""

    body: bytes = field(default_factory=body_of)
    headers: dict[str, Any] = field(default_factory=headers_of)
    kind: str | None = "application/json"
    encoding: str | None = "utf-8"
    properties: dict[str, Any] = field(default_factory=dict)

    def publish(self, url: str, queue: str) -> None:
        with kombu.Connection(url) as connection:
            connection.Producer().publish(
                self.body,
                exchange="tasks",
                routing_key=queue,
                content_type=self.kind,
                content_encoding=self.encoding,
                headers=self.headers,
                **self.properties,
            )


class FarFuture(datetime):
    """A date that a broker carries and Python cannot read."""

    def utctimetuple(self) -> Any:  # noqa: ANN401 - for amqp, which wants a tuple
        return (9999, 1, 1, 10**10, 0, 0)


def nested(depth: int) -> list[Any]:
    made: list[Any] = []
    for _ in range(depth):
        made = [made]
    return made


PICKLE = pickle.dumps([[], {"content": "pickled"}, {}])
PICKLED = "application/x-python-serialize"
MALFORMED = {
    # The two of the report.
    "no header but the language, empty parts": Sent(b"[[], {}, {}]", {"lang": "py"}),
    "no id": Sent(body_of([], {"duration": 0}), {"lang": "py", "task": "slow"}),
    # The body.
    "pickle": Sent(PICKLE, kind=PICKLED),
    "pickle without headers": Sent(PICKLE, {}, PICKLED),
    "no JSON": Sent(b"{nonsense"),
    "no JSON, no headers": Sent(b"{nonsense", {}),
    "JSON, no headers": Sent(b'{"content": "x"}', {}),
    "no text": Sent(b"\xff\xfe\x00"),
    "no body": Sent(b""),
    "no body, no headers": Sent(b"", {}),
    "unknown type": Sent(b"<a/>", kind="text/xml"),
    "an object": Sent(b'{"content": "x"}'),
    "an empty list": Sent(b"[]"),
    "null": Sent(b"null"),
    "a number": Sent(b"7"),
    "four parts": Sent(b"[[], {}, {}, {}]"),
    "arguments that are a text": Sent(body_of("text")),
    "arguments that are null": Sent(body_of(None)),
    "keyword arguments that are a list": Sent(body_of([], [])),
    "keyword arguments that are a number": Sent(body_of([], 7)),
    "a third part that is a text": Sent(body_of([], None, "text")),
    "arguments nested beyond reading": Sent(b"[[" + b"[" * 10_000 + b"]" * 10_000 + b"], {}, {}]"),
    # The headers.
    "no task": Sent(headers=headers_of(task=GONE)),
    "a task that is null": Sent(headers=headers_of(task=None)),
    "a task that is a list": Sent(headers=headers_of(task=["insert_message"])),
    "a task that nobody knows": Sent(headers=headers_of(task="nobody_knows")),
    "an id that is none": Sent(headers=headers_of(id="abc-123", attempt=GONE)),
    "an id that is null": Sent(headers=headers_of(id=None)),
    "an id that is a number": Sent(headers=headers_of(id=7)),
    "an id that is a list": Sent(headers=headers_of(id=[str(uuid4())])),
    "an id in upper case": Sent(headers=headers_of(id=str(uuid4()).upper())),
    "an attempt that is a text": Sent(headers=headers_of(attempt="first")),
    "an attempt of zero": Sent(headers=headers_of(attempt=0)),
    "a negative attempt": Sent(headers=headers_of(attempt=-1)),
    "a huge attempt": Sent(headers=headers_of(attempt=2**62)),
    "an attempt that is true": Sent(headers=headers_of(attempt=True)),
    "an attempt that is a fraction": Sent(headers=headers_of(attempt=1.5)),
    "an attempt that is a list": Sent(headers=headers_of(attempt=[1])),
    "an eta that is none": Sent(headers=headers_of(eta="soon")),
    "an eta that is a number": Sent(headers=headers_of(eta=7)),
    "an expiry that is none": Sent(headers=headers_of(expires="never")),
    "time limits that are a text": Sent(headers=headers_of(timelimit="long")),
    "time limits of texts": Sent(headers=headers_of(timelimit=["long", "longer"])),
    "one time limit": Sent(headers=headers_of(timelimit=[1])),
    "negative time limits": Sent(headers=headers_of(timelimit=[-1, -1])),
    "a shadow that is a list": Sent(headers=headers_of(shadow=["a"])),
    "stamps that are a number": Sent(headers=headers_of(stamped_headers=7)),
    "an unknown compression": Sent(headers=headers_of(compression="nonsense")),
    "a compression that it has not": Sent(headers=headers_of(compression="application/x-gzip")),
    # Bundles.
    "a bundle that is no list": Sent(b"{}", {"bundle": 1}),
    "a bundle of nothing": Sent(b"[]", {"bundle": 0}),
    "a bundle that is no JSON": Sent(b"[nonsense", {"bundle": 1}),
    "a bundle of numbers": Sent(b"[7]", {"bundle": 1}),
    "a bundle of short rows": Sent(b'[["a"]]', {"bundle": 1}),
    "a bundle that is a number": Sent(b"7", headers_of(bundle="nonsense")),
}  # fmt: skip
UNREADABLE_PROPERTIES = {
    "a date beyond Python's": Sent(headers=headers_of(at=FarFuture.now(UTC))),
    "a timestamp beyond Python's": Sent(properties={"timestamp": 2**62}),
    "headers nested beyond reading": Sent(headers=headers_of(deep=nested(3000))),
}


def envelope(**changes: object) -> bytes:
    """Return what kombu puts into a list for a good message, but for `changes`."""
    properties = {
        "delivery_info": {"exchange": "tasks", "routing_key": "tasks"},
        "delivery_tag": str(uuid4()),
        "body_encoding": "base64",
        "priority": 0,
        "reply_to": "",
        "correlation_id": str(uuid4()),
    }
    parts: dict[str, object] = {
        "body": base64.b64encode(body_of()).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": headers_of(),
        "properties": properties,
    }
    for name, value in changes.items():
        (properties if name in properties else parts)[name.replace("__", "-")] = value
    parts["properties"] = changes.get(
        "properties", {k: v for k, v in properties.items() if v is not GONE}
    )
    return json.dumps({name: value for name, value in parts.items() if value is not GONE}).encode()


ENTRIES = {
    "no JSON": b"nonsense",
    "no text": b"\xff\xfe",
    "empty": b"",
    "a list": b"[]",
    "a number": b"7",
    "null": b"null",
    "an empty object": b"{}",
    "no properties": envelope(properties=GONE),
    "properties that are null": envelope(properties=None),
    "no properties in it": envelope(properties={}),
    "no delivery tag": envelope(delivery_tag=GONE),
    "a delivery tag that is null": envelope(delivery_tag=None),
    "a delivery tag that is a list": envelope(delivery_tag=["a"]),
    "no delivery info": envelope(delivery_info=GONE),
    "a delivery info that is a text": envelope(delivery_info="tasks"),
    "an empty delivery info": envelope(delivery_info={}),
    "headers that are null": envelope(headers=None),
    "headers that are a list": envelope(headers=["task"]),
    "headers that are a text": envelope(headers="task"),
    "no headers": envelope(headers=GONE),
    "no body": envelope(body=GONE),
    "a body that is null": envelope(body=None),
    "a body that is an object": envelope(body={}),
    "a body that is no base64": envelope(body="a"),
    "a body in an unknown code": envelope(body_encoding="nonsense"),
    "a type that is an object": envelope(content__type={}),
    "a reply queue that is an object": envelope(reply_to={}),
    "a reply queue that is a list": envelope(reply_to=["a"]),
    "a correlation id that is a list": envelope(correlation_id=["a"]),
}  # fmt: skip


class Valkey(NamedBroker):
    """The embedded broker, as `make run` starts it."""

    def left(self, queue: str) -> int:
        """Return how many messages wait in a queue or are not acknowledged."""
        with kombu.Connection(self.url) as connection:
            channel: Any = connection.default_channel  # the stubs know no kind of it
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
    return [line for line in log.splitlines() if any(level in line for level in LEVELS)]


def works(stack: Stack) -> None:
    """Check that the worker runs tasks of both queues."""
    assert stack["worker"].popen.poll() is None
    for task_id in (stack.post("/tasks/", {"content": "x"}), stack.post("/tasks/slow?duration=0")):
        assert stack.state(task_id, wait=MINUTE)["status"] == "SUCCESS"


def are_dropped(stack: Stack, broker: RabbitMQ | Valkey, send: Callable[[str], object]) -> None:
    """Send a malformed message to each queue; see both dropped and two new tasks succeed."""
    worker = stack["worker"]
    before = len(worker.log)
    tasks = int(str(stack.scalar("SELECT count(*) FROM tasks")))
    for queue in QUEUES:
        send(queue)
    eventually(lambda: len(faults(worker.log[before:])) == 2, 10, "both are logged")
    for queue in QUEUES:
        eventually(lambda: left(broker, queue) == 0, 5, "the queue is empty")  # noqa: B023
    works(stack)
    assert stack.scalar("SELECT count(*) FROM tasks") == tasks + 2
    assert len(faults(worker.log[before:])) == 2, worker.log[before:]


@pytest.mark.parametrize("case", MALFORMED)
def test_a_message_that_cannot_be_read_is_logged_and_dropped_and_the_worker_goes_on(
    service: Stack, broker: RabbitMQ | Valkey, case: str
) -> None:
    are_dropped(service, broker, partial(MALFORMED[case].publish, service.broker_url))


def test_arguments_that_can_be_read_but_not_sent_to_a_process_do_not_stop_a_worker(
    service: Stack, broker: RabbitMQ | Valkey
) -> None:
    # From about 500 levels on, Python 3.11 reads such JSON and cannot pickle it.
    for depth in (300, 500, 700, 900):
        for queue in QUEUES:
            Sent(body_of(nested(depth))).publish(service.broker_url, queue)
    for queue in QUEUES:
        eventually(lambda: left(broker, queue) == 0, 10, "the queue is empty")  # noqa: B023
    works(service)
    assert "nrecoverable" not in service["worker"].log


@ON_RABBITMQ
@pytest.mark.parametrize("case", UNREADABLE_PROPERTIES)
def test_a_message_whose_properties_cannot_be_read_is_logged_and_dropped(
    service: Stack, broker: RabbitMQ, case: str
) -> None:
    def send(queue: str) -> None:
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(20_000)  # to write what is nested so deeply
        try:
            UNREADABLE_PROPERTIES[case].publish(service.broker_url, queue)
        finally:
            sys.setrecursionlimit(limit)

    are_dropped(service, broker, send)


@ON_VALKEY
@pytest.mark.parametrize("case", ENTRIES)
def test_an_entry_that_is_no_message_is_logged_and_dropped_and_the_worker_goes_on(
    service: Stack, broker: Valkey, case: str
) -> None:
    are_dropped(service, broker, lambda queue: broker.client().rpush(queue, ENTRIES[case]))


@ON_VALKEY
@pytest.mark.parametrize("entry", [b"[]", b"7", b"{}", envelope(headers=["task"])])
def test_a_broadcast_that_is_no_message_does_not_stop_a_worker(
    service: Stack, broker: Valkey, entry: bytes
) -> None:
    worker = service["worker"]
    before = len(worker.log)
    assert broker.client().publish("/0.celery.pidbox", entry) == 1
    eventually(lambda: faults(worker.log[before:]), 10, "it is logged")
    works(service)
    assert len(faults(worker.log[before:])) == 1


def enter(stack: Stack) -> str:
    """Write a task that no relay will publish for an hour; return its id."""
    task_id = str(uuid4())
    stack.query(
        "INSERT INTO tasks (id, name, args, max_attempts)"
        " VALUES (%s, 'insert_message', '{\"content\": \"mine\"}', 5) RETURNING 1",
        task_id,
    )
    stack.query(
        "INSERT INTO outbox (task_id, due_at) VALUES (%s, now() + interval '1 h') RETURNING 1",
        task_id,
    )
    return task_id


def row(task_id: object, **changes: object) -> list[object]:
    good = {"attempt": 1, "name": "insert_message", "args": '{"content": "mine"}', "reply_to": None}
    return [task_id, *(good | changes).values()]


BAD_ROWS = {
    "null": None,
    "a number": 7,
    "too short": ["a"],
    "an object": {"task_id": 1},
    "an id that is none": row("abc"),
    "an attempt that is a text": row(str(uuid4()), attempt="first"),
    "an attempt that is huge": row(str(uuid4()), attempt=2**40),
    "a name that nobody knows": row(str(uuid4()), name="nobody_knows"),
    "a name that is a list": row(str(uuid4()), name=[]),
    "arguments that are no JSON": row(str(uuid4()), args="{"),
    "arguments that are a list": row(str(uuid4()), args="[]"),
    "arguments that are an object": row(str(uuid4()), args={}),
    "a reply queue that is an object": row(str(uuid4()), reply_to={"a": 1}),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_of_a_bundle_with_bad_rows_the_good_ones_run_once(
    service: Stack, broker: RabbitMQ | Valkey, case: str
) -> None:
    first, second = enter(service), enter(service)
    rows = [row(first), BAD_ROWS[case], row(second), BAD_ROWS[case]]
    worker = service["worker"]
    before = len(worker.log)
    Sent(json.dumps(rows).encode(), {"bundle": 4}).publish(service.broker_url, "short_tasks")
    for task_id in (first, second):
        assert service.state(task_id, wait=MINUTE)["status"] == "SUCCESS"
        assert service.attempt(task_id) == 1
    eventually(lambda: left(broker, "short_tasks") == 0, 5, "the bundle is acknowledged")
    written = "SELECT count(*) FROM messages WHERE task_id = ANY(CAST(%s AS uuid[]))"
    assert service.scalar(written, [first, second]) == 2
    assert len(faults(worker.log[before:])) == 2
