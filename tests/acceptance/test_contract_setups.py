"""The contract in other setups: two API processes, results in Redis, an older worker."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any

import celery
import httpx
import pytest

from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.acceptance.conftest import Broker, Database
    from tests.support.servers import Redis
    from tests.support.stack import Stack

MINUTE = 60.0
ORDER = {"PENDING": 0, "STARTED": 1, "RETRY": 1, "SUCCESS": 2}


@pytest.fixture
def postgres(contract_database: Database) -> Database:
    """Make `stack` use the contract's database."""
    contract_database.start()
    return contract_database


@pytest.fixture
def rabbitmq(contract_broker: Broker) -> Iterator[Broker]:
    """Make `stack` use the contract's broker."""
    contract_broker.start()
    yield contract_broker
    contract_broker.delete_all_queues()


def read(stack: Stack, task_id: str, query: str) -> dict[str, Any]:
    """Read a task's state over a new connection."""
    with closing(HTTPConnection("127.0.0.1", stack.port, timeout=70)) as connection:
        connection.request("GET", f"/tasks/{task_id}{query}")
        answer = connection.getresponse()
        assert answer.status == 200
        state: dict[str, Any] = json.loads(answer.read())
        return state


def follow(stack: Stack, number: int) -> list[dict[str, Any]]:
    """Post a task, read it ten times with and without `wait`, and return what was read."""
    if number % 6 == 0:
        task_id = stack.post("/tasks/slow?duration=1")
    else:
        task_id = stack.post("/tasks/", {"content": f"message {number}"})
    queries = ["", "", "?wait=0.1", "", "?wait=0.2", "", "?wait=60", "", "?wait=60", ""]
    return [read(stack, task_id, query) for query in queries]


@pytest.mark.timeout(300)
def test_no_api_replica_returns_a_wrong_or_older_state(stack: Stack, *, thorough: bool) -> None:
    count = 300 if thorough else 60
    api = stack.start("api", environment={"API_WORKERS": "2"})
    assert len(api.children()) >= 2
    stack.start("worker")
    with ThreadPoolExecutor(8) as pool:
        all_seen = list(pool.map(lambda number: follow(stack, number), range(count)))
    for number, seen in enumerate(all_seen):
        places = [ORDER[state["status"]] for state in seen]
        assert sorted(places) == places, "no state is older than one read before"
        assert [state["status"] for state in seen[-4:]] == ["SUCCESS"] * 4
        assert all({"task_id", "status", "result"} == state.keys() for state in seen)
        assert len({state["task_id"] for state in seen}) == 1
        early = [state["result"] for state in seen if state["status"] != "SUCCESS"]
        assert [None] * len(early) == early
        result = seen[-1]["result"]
        assert all(state["result"] == result for state in seen if state["status"] == "SUCCESS")
        if number % 6 == 0:
            assert result == {"message": "Task completed after 1 seconds"}
        else:
            assert f"message {number}" == result["content"]
    replicas = stack.scalar("SELECT count(DISTINCT reply_to) FROM tasks")
    assert replicas == 2, "both processes have taken tasks"


def test_a_task_unknown_to_an_old_worker_waits_for_a_newer_one(odd_stack: Stack) -> None:
    stack = odd_stack
    stack.start("api")
    stack.module = "backend"  # the version before the tests' own tasks
    old = stack.start("worker", name="old")
    task_id = stack.post("/tasks/refuse", {"text": "known now"})
    eventually(lambda: "refuse" in old.log, 20, "the old worker has refused the task")
    works_on = stack.post("/tasks/", {"content": "known by all"})
    assert stack.state(works_on, wait=MINUTE)["status"] == "SUCCESS"
    assert stack.state(task_id) == {"task_id": task_id, "status": "PENDING", "result": None}
    stack.kill("old")
    stack.module = "tests.support.service"
    stack.start("worker", name="new")
    state = stack.state(task_id, wait=MINUTE)
    assert state["result"] == {"error": "known now"}
    assert stack.attempt(task_id) == 1


def test_with_results_in_redis_the_contract_is_the_same(
    odd_stack: Stack, redis_server: Redis
) -> None:
    stack = odd_stack
    redis_server.start()
    stack.environment["CELERY_RESULT_BACKEND"] = redis_server.url
    stack.start("api")
    stack.start("worker")
    message = stack.post("/tasks/", {"content": "Hello"})
    slow = stack.post("/tasks/slow?duration=1")
    fails = stack.post("/tasks/fail", {"text": "it broke"})
    state = stack.state(message, wait=MINUTE)
    result: Any = state["result"]
    assert state == {"task_id": message, "status": "SUCCESS", "result": result}
    assert {"id", "content", "created_at"} == result.keys()
    done = {"message": "Task completed after 1 seconds"}
    assert stack.state(slow, wait=MINUTE) == {"task_id": slow, "status": "SUCCESS", "result": done}
    broken = {"task_id": fails, "status": "FAILURE", "result": {"error": "ValueError: it broke"}}
    assert stack.state(fails, wait=MINUTE) == broken
    assert httpx.get(f"{stack.url}/tasks/").json() == {"tasks": [], "total": 0}
    # Other programs that read Celery results find them there.
    stored = celery.Celery(backend=redis_server.url).AsyncResult(slow)
    eventually(lambda: stored.state == "SUCCESS", 10, "Redis has the result")
    assert stored.result == done
    # Without Redis the ledger still has every answer.
    redis_server.stop()
    again = stack.post("/tasks/", {"content": "without Redis"})
    assert stack.state(again, wait=MINUTE)["status"] == "SUCCESS"
    assert stack.state(slow)["result"] == done
