"""Two installations on one broker, each with its own database: without and with a prefix."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import celery
import httpx
import kombu
import pytest

from tests.support.celery_command import celery_command
from tests.support.malformed import BUNDLE
from tests.support.servers import RabbitMQ
from tests.support.stack import Stack
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import TypeAlias

    from tests.support.servers import Postgres, Redis

    Stacks: TypeAlias = tuple[Stack, Stack]

MINUTE = 60.0
TROUBLE = "messages of tasks that this database does not have"


PREFIXES = ("dev.", "staging-")


@pytest.fixture(scope="module", params=["rabbitmq_server", "redis_server"])
def broker(request: pytest.FixtureRequest) -> Iterator[RabbitMQ | Redis]:
    server: RabbitMQ | Redis = request.getfixturevalue(request.param)
    server.start()
    yield server
    empty(server)


def empty(broker: RabbitMQ | Redis) -> None:
    if isinstance(broker, RabbitMQ):
        broker.delete_all_queues()
    else:
        with kombu.Connection(broker.url) as connection:
            connection.default_channel.client.flushall()  # type: ignore[attr-defined]  # of Redis


def names(broker: RabbitMQ | Redis) -> set[str]:
    """Return the names of all queues, on Redis of all keys."""
    if isinstance(broker, RabbitMQ):
        return set(broker.queues())
    with kombu.Connection(broker.url) as connection:
        keys: list[bytes] = connection.default_channel.client.keys()  # type: ignore[attr-defined]  # of Redis
    return {key.decode() for key in keys}


@contextmanager
def installed(
    postgres: Postgres, broker: RabbitMQ | Redis, folder: Path, prefixes: Sequence[str]
) -> Iterator[Stacks]:
    """Give two installations, not started yet, with one broker and two databases."""
    postgres.start()
    empty(broker)
    with ExitStack() as made:
        stacks = []
        for number, prefix in enumerate(prefixes):
            own = folder / str(number)
            own.mkdir()
            environment = {"WORKER_CONCURRENCY": "1", "QUEUE_PREFIX": prefix}
            stack = Stack(postgres.create_database(), broker.url, own, environment)
            stacks.append(made.enter_context(stack))
        yield stacks[0], stacks[1]


@pytest.fixture
def together(
    postgres_server: Postgres, broker: RabbitMQ | Redis, tmp_path: Path
) -> Iterator[Stacks]:
    """Give two installations without prefixes, not started yet."""
    with installed(postgres_server, broker, tmp_path, ("", "")) as stacks:
        yield stacks


@pytest.fixture(scope="module")
def apart(
    postgres_server: Postgres,
    broker: RabbitMQ | Redis,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stacks]:
    """Give two running installations with prefixes; each test leaves no task running."""
    folder = tmp_path_factory.mktemp("apart")
    with installed(postgres_server, broker, folder, PREFIXES) as stacks:
        for stack in stacks:
            stack.start("api")
            stack.start("worker")
        yield stacks


def degraded(stack: Stack) -> list[str]:
    named: list[str] = httpx.get(f"{stack.url}/health/ready").json()["degraded"]
    return named


def post_both(stack: Stack) -> list[str]:
    """Post a task for each of the two queues."""
    short = stack.post("/tasks/", {"content": "Hello"})
    return [short, stack.post("/tasks/slow?duration=0")]


def deliver_again(stack: Stack, task_id: str) -> None:
    """Send the message of an ended task once more, to both queues."""
    body = [['{"content": "Hello"}'], {}, {}]
    headers = {"lang": "py", "task": "insert_message", "id": task_id, "ledger_attempt": 1}
    with kombu.Connection(stack.broker_url) as connection:
        producer: Any = connection.Producer(exchange=kombu.Exchange("tasks"), serializer="json")
        producer.publish(body, routing_key="tasks", headers=headers)
        row = {"task_id": task_id, "attempt": 1, "name": "insert_message"}
        row |= {"args": '{"content": "Hello"}', "reply_to": None}
        producer.publish([row], routing_key="short_tasks", headers=BUNDLE)


def test_messages_of_another_installation_are_logged_once_and_reported_by_health(
    together: Stacks,
) -> None:
    here, there = together
    here.start("api")
    worker = here.start("worker", environment={"LOG_LEVEL": "DEBUG"})
    for task_id in (ids := post_both(here)):
        assert here.state(task_id, wait=MINUTE)["status"] == "SUCCESS"
    deliver_again(here, ids[0])
    for task_id in post_both(here):
        assert here.state(task_id, wait=MINUTE)["status"] == "SUCCESS"
    assert degraded(here) == []
    there.start("api")
    lost = post_both(there)
    eventually(lambda: TROUBLE in worker.log, 10, "the worker has logged the stray message")
    (fault,) = degraded(here)
    for said in (TROUBLE, "QUEUE_PREFIX"):
        assert said in worker.log
        assert said in fault
    lost += post_both(there)
    # Two stray messages in each queue, and before them a duplicate of this installation's.
    dropped = "the task does not wait for this attempt"
    eventually(lambda: worker.log.count(dropped) >= 6, 10, "all messages are dropped")
    assert worker.log.count(TROUBLE) == 1
    assert len(degraded(here)) == 1
    assert "Traceback" not in worker.log
    assert [there.state(task_id)["status"] for task_id in lost] == ["PENDING"] * 4


def test_installations_with_different_prefixes_share_nothing(
    apart: Stacks, broker: RabbitMQ | Redis
) -> None:
    (here,), (there,) = map(pinged, apart)
    assert here != there
    with listening(apart[0]) as ours, listening(apart[1]) as theirs:
        # The second installation's events all come before the last events of the first.
        for stack, listener in zip(apart[::-1], (theirs, ours), strict=True):
            for task_id in post_both(stack):
                assert stack.state(task_id, wait=MINUTE)["status"] == "SUCCESS"
            eventually(lambda: listener.count("task-succeeded") == 2, 10, "both arrived")  # noqa: B023
        assert theirs.count("task-succeeded") == 2
    assert (ours.workers(), theirs.workers()) == ({here}, {there})
    for stack in apart:
        assert "published again" not in stack["api"].log
        assert TROUBLE not in stack["worker"].log
        assert degraded(stack) == []
    # kombu uses this one name, without a prefix, for the deadlines of bindings.
    unnamed = {name for name in names(broker) if not any(prefix in name for prefix in PREFIXES)}
    assert unnamed <= {"_kombu.binding_deadlines"}


def test_with_a_prefix_commands_and_the_list_reach_the_worker(
    apart: Stacks,
) -> None:
    stack = apart[0]
    busy = stack.post("/tasks/slow?duration=3600")
    eventually(lambda: stack.state(busy)["status"] == "STARTED", 10, "the task runs")
    # Only the worker has this task until it is due, so the list gets it by asking the worker.
    called = celery_command(
        stack, "call", "slow", "--kwargs", '{"duration": 0}', "--countdown", "15"
    ).strip()
    expected = [{"task_id": busy, "status": "ACTIVE"}, {"task_id": called, "status": "SCHEDULED"}]
    listed: list[object] = eventually(
        lambda: (tasks := httpx.get(f"{stack.url}/tasks/").json()["tasks"])[1:] and tasks,
        10,
        "both tasks are listed",
    )
    assert listed == expected
    assert busy in celery_command(stack, "inspect", "active", "--json")
    app = outside(stack)
    with app.connection_for_write() as connection:
        app.control.revoke(busy, terminate=True, connection=connection)
    assert stack.state(busy, wait=MINUTE)["status"] == "REVOKED"
    url = f"{stack.url}/tasks/{called}"
    eventually(lambda: httpx.get(url).status_code == 200, 30, "the task has a ledger row")
    assert stack.state(called, wait=MINUTE)["status"] == "SUCCESS"


def outside(stack: Stack) -> Any:  # noqa: ANN401 - the stubs lack half of it
    """Return another program's Celery application, configured with the prefixed names."""
    prefix = stack.environment["QUEUE_PREFIX"]
    app = celery.Celery(broker=stack.broker_url)
    app.conf.update(control_exchange=f"{prefix}celery", event_exchange=f"{prefix}celeryev")
    return app


def pinged(stack: Stack) -> dict[str, object]:
    """Return the answers of the workers that another program reaches."""
    app = outside(stack)
    # Not a pooled connection, which may belong to an earlier server on this port.
    with app.connection_for_write() as connection:
        answers: dict[str, object] = app.control.inspect(connection=connection).ping()
        return answers


class Listener:
    """Collects the events that `celery events` and Flower would get."""

    def __init__(self, app: Any, connection: Any) -> None:  # noqa: ANN401 - as above
        self._connection = connection
        self.events: list[dict[str, Any]] = []
        self.receiver = app.events.Receiver(connection, handlers={"*": self.events.append})

    def count(self, kind: str) -> int:
        """Return how many events of a kind have arrived."""
        with suppress(TimeoutError):
            while True:
                self._connection.drain_events(timeout=0.1)
        return [event["type"] for event in self.events].count(kind)

    def workers(self) -> set[str]:
        """Return the workers that have sent the events."""
        return {event["hostname"] for event in self.events}


@contextmanager
def listening(stack: Stack) -> Iterator[Listener]:
    """Give a listener that has received a heartbeat, so it misses no later event."""
    app = outside(stack)
    with app.connection_for_read() as connection:
        listener = Listener(app, connection)
        consumers = listener.receiver.get_consumers(
            partial(kombu.Consumer, connection), connection.default_channel
        )
        with consumers[0]:
            eventually(
                lambda: listener.count("worker-heartbeat"),
                20,
                "the heartbeat of the worker has arrived",
            )
            yield listener
