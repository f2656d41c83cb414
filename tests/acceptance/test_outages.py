"""Without PostgreSQL: 503 and no partial writes. Without broker or workers: 202 as always."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.servers import Postgres, RabbitMQ
    from tests.support.stack import Stack

MINUTE = 60.0
MESSAGE = {"content": "Hello"}
NEED_THE_STORE = [
    ("POST", "/tasks/", MESSAGE),
    ("POST", "/tasks/slow?duration=0", None),
    ("POST", "/tasks/insert_message", MESSAGE),
    ("GET", "/tasks/", None),
    ("GET", "/tasks/{id}", None),
    ("GET", "/tasks/{id}?wait=1", None),
    ("GET", "/messages/", None),
    ("POST", "/messages/", MESSAGE),
    ("GET", "/health/ready", None),
]
NEED_NOTHING = ["/", "/health", "/health/live", "/docs", "/openapi.json"]


@contextmanager
def stopped(postgres: Postgres) -> Iterator[None]:
    postgres.stop("immediate")
    yield
    postgres.start()


@contextmanager
def frozen(server: Postgres | RabbitMQ) -> Iterator[None]:
    server.freeze()
    try:
        yield
    finally:
        server.thaw()


@contextmanager
def killed(rabbitmq: RabbitMQ) -> Iterator[None]:
    rabbitmq.stop()
    yield
    rabbitmq.start()


def timed(
    stack: Stack, method: str, path: str, body: object = None
) -> tuple[httpx.Response, float]:
    """Send a request over a new connection; return the answer and the seconds it took."""
    with httpx.Client(base_url=stack.url, timeout=20) as client:
        begin = time.monotonic()
        answer = client.request(method, path, json=body)
        return answer, time.monotonic() - begin


def check_refusals(stack: Stack, task_id: str) -> None:
    """Send all requests that need the store concurrently: each gets 503 in time."""
    with ThreadPoolExecutor(len(NEED_THE_STORE)) as pool:
        asked = [
            pool.submit(timed, stack, method, path.format(id=task_id), body)
            for method, path, body in NEED_THE_STORE
        ]
    for (method, path, _body), answered in zip(NEED_THE_STORE, asked, strict=True):
        answer, seconds = answered.result()
        assert answer.status_code == 503, f"{method} {path}: {answer.text}"
        assert seconds < 5, f"{method} {path}"
        assert answer.headers["content-type"] == "application/problem+json"
        assert int(answer.headers["retry-after"]) > 0
        assert {"type", "title", "status", "detail"} == answer.json().keys()
        assert "127.0.0.1" not in answer.text


def check_what_needs_nothing(stack: Stack) -> None:
    """Send the requests that need no store: they are answered at once."""
    for path in NEED_NOTHING:
        answer, seconds = timed(stack, "GET", path)
        assert answer.status_code == 200, path
        assert seconds < 1, path
    answer, seconds = timed(stack, "POST", "/tasks/", {"content": ""})
    assert (answer.status_code, seconds < 1) == (422, True)


@pytest.mark.parametrize("outage", [stopped, frozen])
def test_without_postgresql_each_route_answers_503_in_time_and_recovers(
    stack: Stack, postgres: Postgres, outage: object
) -> None:
    stack.start("api")
    stack.start("worker")
    task_id = stack.post("/tasks/", {"content": "from before"})
    before = stack.state(task_id, wait=MINUTE)
    assert before["status"] == "SUCCESS"
    assert callable(outage)
    with outage(postgres):
        # Twice, as open connections fail in other ways than new ones.
        for _ in range(2):
            check_refusals(stack, task_id)
            check_what_needs_nothing(stack)
    eventually(
        lambda: timed(stack, "POST", "/tasks/", MESSAGE)[0].status_code == 202,
        MINUTE,
        "a task is accepted again",
    )
    assert before == stack.state(task_id)
    # Tasks accepted when the outage began are complete: they run and end like others.
    eventually(lambda: stack.unfinished() == 0, MINUTE, "every task has ended")
    assert stack.scalar("SELECT count(*) FROM outbox") == 0
    assert stack.query(
        "SELECT count(*) FROM tasks WHERE name = 'insert_message' AND state = 'SUCCESS'"
    ) == stack.query("SELECT count(*) FROM messages WHERE task_id IS NOT NULL")
    assert timed(stack, "GET", "/health/ready")[0].status_code == 200


@pytest.mark.parametrize("outage", [killed, frozen])
def test_without_the_broker_tasks_are_accepted_and_listed_and_run_later(
    stack: Stack, rabbitmq: RabbitMQ, outage: object, *, thorough: bool
) -> None:
    stack.start("api")
    stack.start("worker")
    first = stack.post("/tasks/", MESSAGE)
    assert stack.state(first, wait=MINUTE)["status"] == "SUCCESS"
    assert timed(stack, "GET", "/tasks/")[0].json() == {"tasks": [], "total": 0}
    assert callable(outage)
    with outage(rabbitmq):
        ids = []
        for number in range(5):
            answer, seconds = timed(stack, "POST", "/tasks/", MESSAGE)
            assert answer.status_code == 202
            assert seconds < 1
            ids.append(answer.json()["task_id"])
            answer, seconds = timed(stack, "GET", "/tasks/")
            assert ids == [task["task_id"] for task in answer.json()["tasks"]]
            assert seconds < (2 if number == 0 else 0.5), number
        # Each task was published before the outage was noticed, or waits: none is lost.
        states = [stack.state(task_id) for task_id in ids]
        assert [state["status"] for state in states] == ["PENDING"] * 5
        if outage is killed or thorough:  # it takes 20 s to notice a frozen broker
            eventually(
                lambda: "broker" in timed(stack, "GET", "/health/ready")[0].text,
                30,
                "readiness reports the outage",
            )
        answer, seconds = timed(stack, "GET", "/tasks/")
        assert ids == [task["task_id"] for task in answer.json()["tasks"]]
        assert seconds < 0.5
        assert timed(stack, "GET", "/health/ready")[0].status_code == 200
    for task_id in ids:
        assert stack.state(task_id, wait=MINUTE)["status"] == "SUCCESS"
    assert stack.scalar("SELECT count(*) FROM messages") == 6
    assert timed(stack, "GET", "/tasks/")[0].json() == {"tasks": [], "total": 0}


def test_a_missing_or_dead_worker_delays_the_list_once_by_at_most_a_second(stack: Stack) -> None:
    stack.start("api")
    ids = [stack.post("/tasks/slow?duration=1")]
    for _ in range(3):
        answer, seconds = timed(stack, "GET", "/tasks/")
        reserved = {"tasks": [{"task_id": ids[0], "status": "RESERVED"}], "total": 1}
        assert reserved == answer.json()
        assert seconds < 0.5
    degraded = timed(stack, "GET", "/health/ready")[0].json()["degraded"]
    assert degraded == ["no worker is running: tasks wait until one is"]

    stack.start("worker")
    assert stack.state(ids[0], wait=MINUTE)["status"] == "SUCCESS"
    eventually(
        lambda: timed(stack, "GET", "/health/ready")[0].json()["degraded"] == [],
        10,
        "readiness shows the worker",
    )
    answer, seconds = timed(stack, "GET", "/tasks/")
    assert seconds < 0.5

    stack.kill("worker")
    task_id = stack.post("/tasks/", MESSAGE)
    for number in range(4):
        answer, seconds = timed(stack, "GET", "/tasks/")
        assert {"tasks": [{"task_id": task_id, "status": "RESERVED"}], "total": 1} == answer.json()
        assert seconds < (1.5 if number == 0 else 0.5), number
    alive = stack.scalar("SELECT count(*) FROM workers WHERE expires_at > now()")
    assert alive == 1, "its lease must not have expired meanwhile"
