"""Cancel and retry by request, with the real processes."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import celery
import httpx
import psycopg2
import pytest

from tests.support.stack import serving
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.servers import Postgres, RabbitMQ
    from tests.support.stack import Stack

MINUTE = 60.0
CANCELLED = {"error": "Cancelled"}


@pytest.fixture(scope="module")
def service(
    postgres_server: Postgres, rabbitmq_server: RabbitMQ, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """Give one running service to the tests of this file; each leaves no task running."""
    folder = tmp_path_factory.mktemp("control")
    with serving(postgres_server, rabbitmq_server, folder, "api", "worker") as stack:
        yield stack


def ask(stack: Stack, task_id: str, action: str, **headers: str) -> httpx.Response:
    """Post a request to cancel or retry a task."""
    return httpx.post(f"{stack.url}/tasks/{task_id}/{action}", headers=headers, timeout=10)


def running(stack: Stack, seconds: int = 60) -> str:
    """Return the id of a slow task that runs."""
    task_id = stack.post(f"/tasks/slow?duration={seconds}")
    eventually(lambda: stack.state(task_id)["status"] == "STARTED", 20, "the task runs")
    return task_id


def revoked(task_id: str) -> dict[str, object]:
    """Return the answer about a cancelled task."""
    return {"task_id": task_id, "status": "REVOKED", "result": CANCELLED}


def test_a_waiting_task_that_is_cancelled_never_runs(service: Stack) -> None:
    busy = [running(service, 4) for _ in range(2)]
    waiting = service.post("/tasks/slow?duration=0")
    for _ in range(2):  # the second request changes nothing
        answer = ask(service, waiting, "cancel")
        assert (answer.status_code, answer.json()) == (200, revoked(waiting))
    assert [service.state(each, wait=MINUTE)["status"] for each in busy] == ["SUCCESS"] * 2
    after = service.post("/tasks/slow?duration=0")
    assert service.state(after, wait=MINUTE)["status"] == "SUCCESS"
    assert service.state(waiting) == revoked(waiting)
    assert service.scalar("SELECT started_at FROM tasks WHERE id = %s", waiting) is None
    assert service.scalar("SELECT count(*) FROM outbox") == 0


def test_a_request_that_waits_for_a_cancelled_task_is_answered_at_once(service: Stack) -> None:
    task_id = running(service)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(service.state, task_id, wait=MINUTE)
        ask(service, task_id, "cancel")
        assert answer.result(timeout=5) == revoked(task_id)


def test_a_task_that_was_revoked_through_celery_runs_when_it_is_retried(service: Stack) -> None:
    busy = [running(service, 4) for _ in range(2)]
    task_id = service.post("/tasks/slow?duration=0")
    assert celery.Celery(broker=service.broker_url).control.revoke(task_id, reply=True)
    assert service.state(task_id, wait=10)["result"] == {"error": "revoked"}
    answer = ask(service, task_id, "retry")
    expected = {"task_id": task_id, "status": "RETRY", "message": "Task runs again"}
    assert (answer.status_code, answer.json()) == (202, expected)
    assert answer.headers["location"] == f"/tasks/{task_id}"
    assert service.state(task_id, wait=MINUTE)["status"] == "SUCCESS"
    assert [service.state(each, wait=MINUTE)["status"] for each in busy] == ["SUCCESS"] * 2


def test_one_of_two_simultaneous_retries_is_refused(service: Stack) -> None:
    task_id = running(service)
    ask(service, task_id, "cancel")
    with ThreadPoolExecutor(2) as pool:
        answers = pool.map(lambda _: ask(service, task_id, "retry").status_code, range(2))
    assert sorted(answers) == [202, 409]
    ask(service, task_id, "cancel")


WHY = {
    "cancel": "The task has ended with SUCCESS, so it cannot be cancelled.",
    "retry": "The task is SUCCESS. Only one that has ended with FAILURE or REVOKED can be retried.",
}


@pytest.mark.parametrize("action", WHY)
def test_a_task_that_has_succeeded_is_neither_cancelled_nor_retried(
    service: Stack, action: str
) -> None:
    task_id = service.post("/tasks/", {"content": "done"})
    before = service.state(task_id, wait=MINUTE)
    assert before["status"] == "SUCCESS"
    answer = ask(service, task_id, action)
    assert (answer.status_code, answer.json()["detail"]) == (409, WHY[action])
    assert service.state(task_id) == before


@pytest.mark.parametrize("action", ["cancel", "retry"])
@pytest.mark.parametrize("task_id", ["019a3f0e-7c1a-7d7e-9a53-0d8f2c7b1f55", "no-id"])
def test_a_request_for_an_unknown_task_is_404(service: Stack, action: str, task_id: str) -> None:
    answer = ask(service, task_id, action)
    assert answer.status_code == 404
    assert "only Flower can revoke it" in answer.json()["detail"]
    assert httpx.get(f"{service.url}/tasks/{task_id}/{action}").status_code == 405


def test_a_task_whose_row_is_locked_is_not_cancelled_and_delays_no_other(service: Stack) -> None:
    locked, free = running(service), running(service)
    connection = psycopg2.connect(service.database_url.replace("+psycopg2", ""))
    with closing(connection), connection.cursor() as cursor:
        cursor.execute("SELECT FROM tasks WHERE id = %s FOR UPDATE", [locked])
        answers: dict[str, httpx.Response] = {}
        begin = time.monotonic()
        took: dict[str, float] = {}

        def cancel(task_id: str) -> None:
            answers[task_id] = ask(service, task_id, "cancel")
            took[task_id] = time.monotonic() - begin

        threads = [threading.Thread(target=cancel, args=[each]) for each in (locked, free)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert answers[free].json() == revoked(free)
        assert answers[locked].status_code == 409
        assert took[free] < 1 < took[locked] < 5
        assert "cannot be cancelled now" in answers[locked].json()["detail"]
    assert ask(service, locked, "cancel").json() == revoked(locked)


OTHER_SITES = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1"},
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://["},
]


@pytest.mark.parametrize("headers", OTHER_SITES)
def test_a_page_of_another_web_site_changes_nothing(
    service: Stack, headers: dict[str, str]
) -> None:
    task_id = running(service, 3)
    for path in (f"/tasks/{task_id}/cancel", f"/tasks/{task_id}/retry", "/tasks/slow?duration=0"):
        answer = httpx.post(f"{service.url}{path}", headers=headers)
        assert answer.status_code == 403
        assert answer.json()["detail"].startswith("A page of another web site")
    assert service.state(task_id, wait=MINUTE)["status"] == "SUCCESS"
    assert service.unfinished() == 0


@pytest.mark.parametrize("site", ["same-origin", "none", None])
def test_a_page_of_this_service_may_post(service: Stack, site: str | None) -> None:
    headers = {"Sec-Fetch-Site": site} if site else {"Origin": service.url}
    answer = httpx.post(f"{service.url}/tasks/slow?duration=0", headers=headers)
    assert answer.status_code == 202
    assert service.state(answer.json()["task_id"], wait=MINUTE)["status"] == "SUCCESS"
