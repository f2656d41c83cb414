"""A 202 is final: each message is written once, although processes and servers crash."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.support.posting import Posting
from tests.support.proxy import Proxy
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.servers import Postgres, RabbitMQ
    from tests.support.stack import Stack

OUTAGE_SECONDS = 20.0
RECOVERY_SECONDS = 120.0


class Scene:
    """The running service and the faults that can be made."""

    def __init__(self, stack: Stack, postgres: Postgres, rabbitmq: RabbitMQ) -> None:
        self.stack = stack
        self.postgres = postgres
        self.rabbitmq = rabbitmq
        # The worker reaches its servers through proxies that can be cut.
        self.to_postgres = Proxy("127.0.0.1", postgres.port)
        self.to_rabbitmq = Proxy("127.0.0.1", rabbitmq.port)
        self._worker_environment = {
            "DATABASE_URL": stack.database_url.replace(
                f":{postgres.port}/", f":{self.to_postgres.port}/"
            ),
            "CELERY_BROKER_URL": stack.broker_url.replace(
                f":{rabbitmq.port}/", f":{self.to_rabbitmq.port}/"
            ),
        }
        stack.start("relay")
        self.start_worker()
        stack.start("api", "--no-relay")

    def start_worker(self) -> None:
        self.stack.start("worker", environment=self._worker_environment)

    def close(self) -> None:
        self.to_postgres.close()
        self.to_rabbitmq.close()


@pytest.fixture
def scene(stack: Stack, postgres: Postgres, rabbitmq: RabbitMQ) -> Iterator[Scene]:
    with ExitStack() as cleanup:
        made = Scene(stack, postgres, rabbitmq)
        cleanup.callback(made.close)
        yield made


def kill_worker_child(scene: Scene) -> None:
    os.kill(scene.stack["worker"].children()[0], signal.SIGKILL)


def kill_worker(scene: Scene) -> None:
    scene.stack.kill("worker")
    scene.start_worker()


def kill_api(scene: Scene) -> None:
    scene.stack.kill("api")
    scene.stack.start("api", "--no-relay")


def kill_relay(scene: Scene) -> None:
    scene.stack.kill("relay")
    scene.stack.start("relay")


def stop_rabbitmq_for_20_seconds(scene: Scene) -> None:
    scene.rabbitmq.stop()
    threading.Event().wait(OUTAGE_SECONDS)  # the length of the outage is tested
    scene.rabbitmq.start()


def delete_the_queues(scene: Scene) -> None:
    scene.rabbitmq.delete_all_queues()


def restart_postgres_without_warning(scene: Scene) -> None:
    scene.postgres.restart("immediate")


def cut_the_worker_off_rabbitmq(scene: Scene) -> None:
    scene.to_rabbitmq.cut()


def cut_the_worker_off_postgres(scene: Scene) -> None:
    scene.to_postgres.cut()


CRASHES = [
    kill_worker_child,
    kill_worker,
    kill_api,
    kill_relay,
    stop_rabbitmq_for_20_seconds,
    delete_the_queues,
    restart_postgres_without_warning,
    cut_the_worker_off_rabbitmq,
    cut_the_worker_off_postgres,
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "crash" in metafunc.fixturenames:
        rounds = range(1, 4 if metafunc.config.getoption("thorough") else 2)
        cases = [(crash, number) for crash in CRASHES for number in rounds]
        names = [f"{crash.__name__}-{number}" for crash, number in cases]
        metafunc.parametrize("crash", [crash for crash, _ in cases], ids=names)


@pytest.mark.timeout(300)
def test_each_accepted_message_is_written_once(
    scene: Scene, crash: Callable[[Scene], None], *, thorough: bool
) -> None:
    posting = Posting(scene.stack, 2000 if thorough else 300).start()
    eventually(lambda: len(posting.accepted) >= posting.count / 4, 60, "a quarter is accepted")
    crash(scene)
    posting.finish(RECOVERY_SECONDS)
    eventually(lambda: scene.stack.unfinished() == 0, RECOVERY_SECONDS, "every task has ended")

    states = dict(scene.stack.query("SELECT CAST(id AS text), state FROM tasks"))
    written = Counter(str(row[0]) for row in scene.stack.query("SELECT task_id FROM messages"))
    contents = dict(scene.stack.query("SELECT CAST(task_id AS text), content FROM messages"))
    assert dict.fromkeys(posting.accepted, "SUCCESS") == {
        task_id: states.get(task_id) for task_id in posting.accepted
    }
    assert dict.fromkeys(posting.accepted, 1) == {
        task_id: written[task_id] for task_id in posting.accepted
    }
    beyond = Counter(
        str(contents[task_id]) for task_id in written if task_id not in posting.accepted
    )
    assert beyond <= Counter(posting.unanswered)
    assert scene.stack.scalar("SELECT count(*) FROM outbox") == 0
