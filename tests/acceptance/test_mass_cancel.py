"""Two clients cancel two thousand tasks while workers run, fail and stop."""

from __future__ import annotations

import random
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import httpx

from tests.support.ports import free_port
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.support.stack import Stack

TASKS = 2000
# Each task is one of these: it writes a message, fails twice, or takes a second.
KINDS = [
    {"name": "note", "arguments": {"text": "done"}},
    {"name": "insert_message", "arguments": {"content": "done"}},
    {"name": "fail", "arguments": {"text": "made to fail"}},
    {"name": "slow", "arguments": {"duration": 1}},
]
ENDED_AS_THEY_SHOULD = {"note": "SUCCESS", "insert_message": "SUCCESS", "slow": "SUCCESS"}


def submit(url: str) -> list[str]:
    """Post the tasks in two batches; return their ids."""
    ids = []
    for _ in range(2):
        tasks = [KINDS[number % len(KINDS)] for number in range(TASKS // 2)]
        answer = httpx.post(f"{url}/tasks/batch", json=tasks, timeout=30)
        assert answer.status_code == 202, answer.text
        ids += [task["task_id"] for task in answer.json()["tasks"]]
    return ids


def cancel(url: str, ids: Sequence[str]) -> Iterator[str]:
    """Cancel tasks, one by one and a hundred at once; yield the ids of those that were revoked."""
    with httpx.Client(base_url=url, timeout=30) as client:
        left = list(ids)
        while left:
            one, many, left = left[0], left[1:100], left[100:]
            answer = client.post(f"/tasks/{one}/cancel")
            assert answer.status_code in {200, 409}, answer.text
            if answer.status_code == 200:
                yield one
            answer = client.post("/tasks/cancel", json={"ids": many})
            assert answer.status_code == 200, answer.text
            for task in answer.json()["tasks"]:
                if task["status"] == "REVOKED":
                    yield task["task_id"]


def start_all(stack: Stack) -> list[str]:
    """Start two APIs and two workers; return the addresses of the APIs."""
    port = free_port()
    stack.start("api")
    stack.start("api", name="second", environment={"API_PORT": str(port)})
    for name in ("worker", "other"):
        stack.start("worker", name=name)
    second = f"http://127.0.0.1:{port}"
    eventually(lambda: serves(second), 20, "the second API serves")
    return [stack.url, second]


def serves(url: str) -> bool:
    """Return whether an API answers."""
    try:
        return httpx.get(f"{url}/health/live", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def check(stack: Stack, urls: Sequence[str], asked: set[str], revoked: set[str]) -> None:
    """Check that every task has one end, with its effect or without, and none is left over."""
    sql = """
        SELECT CAST(t.id AS text), name, state, error, count(m.id)
        FROM tasks t LEFT JOIN messages m ON m.task_id = t.id GROUP BY t.id
    """
    rows = stack.query(sql)
    assert len(rows) == TASKS
    for task_id, name, state, error, effects in rows:
        what = f"{name} {task_id} {error}"
        if state == "REVOKED":
            assert (error, effects) == ("Cancelled", 0), what
            assert task_id in asked, what
        else:
            assert task_id not in revoked, what
            assert state == ENDED_AS_THEY_SHOULD.get(name, "FAILURE"), what
            assert effects == (name in {"note", "insert_message"}), what
    assert stack.scalar("SELECT count(*) FROM outbox") == 0
    for task_id in random.sample(sorted(asked), 50):
        answers = [httpx.get(f"{url}/tasks/{task_id}").json() for url in urls]
        assert answers[0] == answers[1]


def test_each_of_many_cancelled_tasks_is_revoked_or_ends_with_its_effect(
    odd_stack: Stack,
) -> None:
    urls = start_all(odd_stack)
    ids = submit(odd_stack.url)
    asked = set(random.sample(ids, TASKS * 3 // 4))
    orders = random.sample(sorted(asked), len(asked)), random.sample(sorted(asked), len(asked))
    with ThreadPoolExecutor(2) as pool:
        clients = [
            pool.submit(lambda pair: set(cancel(*pair)), pair)
            for pair in zip(urls, orders, strict=True)
        ]
        odd_stack.stop("other", signal.SIGTERM, timeout=60)
        odd_stack.kill("worker")
        for name in ("worker", "other"):
            odd_stack.start("worker", name=name)
        revoked = set().union(*(client.result(timeout=120) for client in clients))
    eventually(lambda: odd_stack.unfinished() == 0, 240, "all tasks have ended")
    states = Counter(row[0] for row in odd_stack.query("SELECT state FROM tasks"))
    assert states["REVOKED"] > TASKS // 10, states  # the test has cancelled in time
    check(odd_stack, urls, asked, revoked)
    for name in ("api", "second", "worker", "other"):
        odd_stack.kill(name)
    check(odd_stack, start_all(odd_stack), asked, revoked)
