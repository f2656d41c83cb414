"""Ordinary tasks while processes and servers are killed: once in effect, and no state goes back.

With --thorough there are thousands of tasks, and all kills, three times each.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.chaos.history import Answer
from tests.chaos.states import States
from tests.support.limited_tasks import TABLE
from tests.support.ports import free_port
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.servers import Postgres, RabbitMQ
    from tests.support.stack import Stack

PATIENCE = 600.0
BATCH = 500


class Scene:
    """Two replicas of the API, two workers, and two clients that read states all the time."""

    def __init__(self, stack: Stack, postgres: Postgres, rabbitmq: RabbitMQ) -> None:
        self.stack, self.postgres, self.rabbitmq = stack, postgres, rabbitmq
        stack.environment["TASK_MODULES"] = "backend.tasks,tests.support.limited_tasks"
        stack.query(f"{TABLE}; SELECT 1")
        stack.start("api")
        port = free_port()
        stack.start("api", name="other", environment={"API_PORT": str(port)})
        self._urls = [stack.url, f"http://127.0.0.1:{port}"]
        for name in ("first", "second"):
            stack.start("worker", name=name)
        self.states = States()
        self.ids: list[str] = []
        self._stopping = threading.Event()
        self._readers = [
            threading.Thread(target=self._read, args=(number, url))
            for number, url in enumerate(self._urls)
        ]
        for reader in self._readers:
            reader.start()

    def post(self, name: str, count: int, **arguments: object) -> None:
        """Post many tasks."""
        for start in range(0, count, BATCH):
            items = [{"name": name, "arguments": arguments}] * min(BATCH, count - start)
            url = f"{random.choice(self._urls)}/tasks/batch"
            answer = httpx.post(url, json=items, timeout=60)
            assert answer.status_code == 202, answer.text
            self.ids += [task["task_id"] for task in answer.json()["tasks"]]

    def close(self) -> None:
        """Stop reading."""
        self._stopping.set()
        for reader in self._readers:
            reader.join(20)

    def _read(self, replica: int, url: str) -> None:
        with httpx.Client(base_url=url, timeout=10) as client:
            while not self._stopping.is_set():
                if not self.ids:
                    self._stopping.wait(0.05)
                    continue
                path = f"/tasks/{random.choice(self.ids)}"
                sent = time.monotonic()
                with suppress(httpx.TransportError):
                    answer = client.get(path)
                    if answer.status_code == 200:  # 503 while PostgreSQL is away
                        read = (sent, time.monotonic(), replica, "GET", path, 200, answer.text)
                        self.states.note(Answer(*read))


def kill_child(scene: Scene) -> None:
    os.kill(random.choice(scene.stack["first"].children()), signal.SIGKILL)


def kill_worker(scene: Scene) -> None:
    scene.stack.kill("first")
    scene.stack.start("worker", name="first")


def kill_postgres(scene: Scene) -> None:
    scene.postgres.restart("immediate")


def kill_rabbitmq(scene: Scene) -> None:
    scene.rabbitmq.restart()


KILLS = [kill_child, kill_worker, kill_postgres, kill_rabbitmq]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kill" in metafunc.fixturenames:
        cases = [(kill_worker, 1)]
        if metafunc.config.getoption("thorough"):
            cases = [(kill, number) for kill in KILLS for number in (1, 2, 3)]
        names = [f"{kill.__name__}-{number}" for kill, number in cases]
        metafunc.parametrize("kill", [kill for kill, _ in cases], ids=names)


@pytest.fixture
def scene(stack: Stack, postgres: Postgres, rabbitmq: RabbitMQ) -> Iterator[Scene]:
    made = Scene(stack, postgres, rabbitmq)
    yield made
    made.close()


def check(scene: Scene, count: int) -> None:
    """Wait until all has ended; check that each task ran once in effect."""
    stack = scene.stack
    eventually(lambda: stack.unfinished() == 0, PATIENCE, "all tasks have ended")
    scene.close()
    assert stack.query("SELECT state, count(*) FROM tasks GROUP BY 1") == [("SUCCESS", count)]
    assert stack.scalar("SELECT count(*) FROM outbox") == 0
    assert list(scene.states.backwards({})) == []


def ended(scene: Scene) -> int:
    return len(scene.ids) - scene.stack.unfinished()


@pytest.mark.timeout(900)
def test_ordinary_tasks_run_once_whatever_is_killed(
    scene: Scene, kill: Callable[[Scene], None], *, thorough: bool
) -> None:
    count = 5000 if thorough else 200
    scene.post("slow", count, duration=0)
    scene.post("leave", count)
    scene.ids[:] = random.sample(scene.ids, len(scene.ids))
    eventually(lambda: ended(scene) > count / 2, PATIENCE, "a quarter has ended")
    kill(scene)
    check(scene, 2 * count)
    left = "SELECT count(*), count(DISTINCT task_id) FROM runs WHERE customer = 'left'"
    assert scene.stack.query(left) == [(count, count)]


@pytest.mark.timeout(900)
def test_no_more_than_max_running_run_at_once_whatever_is_killed(
    scene: Scene, kill: Callable[[Scene], None], *, thorough: bool
) -> None:
    count = 500 if thorough else 40
    scene.post("limited", count, seconds=0.01, write=True)
    scene.post("limited", count, seconds=0.01)
    eventually(lambda: ended(scene) > count / 2, PATIENCE, "a quarter has ended")
    kill(scene)
    check(scene, 2 * count)
    assert int(str(scene.stack.scalar("SELECT max(at_once) FROM runs"))) <= 3
    ends = "SELECT count(DISTINCT task_id) FROM runs WHERE ended IS NOT NULL"
    assert scene.stack.scalar(ends) == 2 * count
