"""The options of a submission, on every route that accepts tasks, with the real processes."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import httpx
import pytest

from tests.support.stack import serving
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.servers import Postgres, RabbitMQ
    from tests.support.stack import Stack

MINUTE = 60.0
JSON = {"Content-Type": "application/json"}
CONTENT = {"content": "Hello World"}

# An option, as a query has it, and what is wrong with it.
REFUSED = [
    ("priority", "10"),
    ("priority", "high"),
    ("countdown", "-1"),
    ("countdown", "nan"),
    ("countdown", "40000000"),
    ("eta", "2030-01-31"),
    ("eta", "2030-01-31T08:00:00"),
    ("eta", "1893484800"),
    ("expires", "0"),
    ("time_limit", "0"),
    ("time_limit", "100000"),
    ("max_attempts", "0"),
    ("max_attempts", "1000"),
    ("tag", " "),
    ("tag", "a\tb"),
]


@pytest.fixture(scope="module")
def service(
    postgres_server: Postgres, rabbitmq_server: RabbitMQ, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """Give one running service to the tests of this file."""
    folder = tmp_path_factory.mktemp("options")
    with serving(postgres_server, rabbitmq_server, folder, "api", "worker") as stack:
        yield stack


def of_any_task(detail: str) -> str:
    """Return an error text without the name and the limit of the task."""
    return re.sub(r"at most \d+, which \w+ declares", "at most as declared", detail)


def in_query(path: str, body: object = None) -> Callable[..., httpx.Response]:
    """Return a function that posts a task with options in the query."""

    def post(stack: Stack, **options: Any) -> httpx.Response:
        separator = "&" if "?" in path else "?"
        url = f"{stack.url}{path}{separator}{urlencode(options, doseq=True)}"
        return httpx.post(url, json=body) if body else httpx.post(url)

    return post


def _item(options: dict[str, Any]) -> dict[str, Any]:
    if "tag" in options:
        options["tags"] = [options.pop("tag")]
    return {"arguments": CONTENT, "options": options}


def in_item(stack: Stack, **options: Any) -> httpx.Response:
    return httpx.post(f"{stack.url}/tasks/batch", json=[_item(options)])


def in_line(stack: Stack, **options: Any) -> httpx.Response:
    return httpx.post(
        f"{stack.url}/tasks/batch",
        content=json.dumps(_item(options)),
        headers={"Content-Type": "application/x-ndjson"},
    )


ROUTES: dict[str, Callable[..., httpx.Response]] = {
    "/tasks/": in_query("/tasks/", CONTENT),
    "/tasks/insert_message": in_query("/tasks/insert_message", CONTENT),
    "/tasks/slow": in_query("/tasks/slow?duration=0"),
    "an item": in_item,
    "a line": in_line,
}


@pytest.mark.parametrize(("name", "value"), REFUSED)
@pytest.mark.parametrize("route", ROUTES)
def test_an_option_is_refused_alike_on_every_route(
    service: Stack, route: str, name: str, value: str
) -> None:
    answer = ROUTES[route](service, **{name: value})
    body = answer.json()
    assert answer.status_code == (202 if route == "a line" else 422), body
    (error,) = body["errors"]
    field = "tags/0" if name == "tag" else name
    where = {"an item": f"#/0/options/{field}", "a line": f"#/options/{field}"}
    expected = where.get(route, "?tag.0" if name == "tag" else f"?{name}")
    assert error["pointer"] == expected
    (first,) = ROUTES["/tasks/"](service, **{name: value}).json()["errors"]
    assert of_any_task(error["detail"]) == of_any_task(first["detail"])


@pytest.mark.parametrize("route", ROUTES)
def test_countdown_and_eta_are_not_accepted_together(service: Stack, route: str) -> None:
    answer = ROUTES[route](service, countdown=1, eta="2026-01-01T00:00:00Z")
    assert "countdown or eta, not both" in answer.text
    assert "task_id" not in answer.text


@pytest.mark.parametrize("route", ROUTES)
def test_a_task_with_options_runs(service: Stack, route: str) -> None:
    past = "2026-01-01T00:00:00 02:00"  # a plus in a query is a space
    eta = past if route.startswith("/") else past.replace(" ", "+")
    options = {"priority": 9, "eta": eta, "expires": 600, "max_attempts": 2, "tag": "a"}
    answer = ROUTES[route](service, **options)
    assert answer.status_code == 202, answer.text
    body = answer.json()
    task_id = body.get("task_id") or body["tasks"][0]["task_id"]
    assert service.state(task_id, wait=MINUTE)["status"] == "SUCCESS"
    stored = service.scalar("SELECT options FROM tasks WHERE id = %s", task_id)
    assert stored == {"priority": 9, "max_attempts": 2, "tags": ["a"]}
    eta_stored = service.scalar("SELECT eta FROM tasks WHERE id = %s", task_id)
    assert eta_stored == datetime(2025, 12, 31, 22, tzinfo=UTC)


def test_options_in_the_query_of_a_batch_are_refused_with_the_right_place(service: Stack) -> None:
    answer = httpx.post(f"{service.url}/tasks/batch?priority=9", json=[{"arguments": CONTENT}])
    assert answer.status_code == 422
    assert "`options`" in answer.json()["detail"]


def test_a_task_starts_after_its_countdown_and_is_listed_as_scheduled(service: Stack) -> None:
    begin = time.monotonic()
    task_id = in_query("/tasks/slow?duration=0")(service, countdown=2).json()["task_id"]
    listed = {
        row["task_id"]: row["status"] for row in httpx.get(f"{service.url}/tasks/").json()["tasks"]
    }
    assert listed[task_id] == "SCHEDULED"
    assert service.state(task_id, wait=MINUTE)["status"] == "SUCCESS"
    assert 2 < time.monotonic() - begin < 6


@pytest.mark.parametrize("route", ["/tasks/", "/tasks/slow", "an item"])
def test_a_task_that_has_expired_does_not_run_and_those_who_wait_are_told(
    service: Stack, route: str
) -> None:
    service.stop("worker")
    answer = ROUTES[route](service, expires=0.5).json()
    task_id = answer.get("task_id") or answer["tasks"][0]["task_id"]
    state = service.state(task_id, wait=10)
    assert (state["status"], state["result"]) == ("REVOKED", {"error": "Expired"})
    service.start("worker")
    after = service.post("/tasks/slow?duration=0")
    assert service.state(after, wait=MINUTE)["status"] == "SUCCESS"
    assert service.scalar("SELECT started_at FROM tasks WHERE id = %s", task_id) is None
    assert httpx.post(f"{service.url}/tasks/{task_id}/cancel").status_code == 200


def test_a_task_has_the_time_limit_and_the_attempts_that_it_asked_for(service: Stack) -> None:
    post = in_query("/tasks/slow?duration=30")
    task_id = post(service, time_limit=1.5, max_attempts=1).json()["task_id"]
    state = service.state(task_id, wait=20)
    assert state["status"] == "FAILURE"
    assert "1.5 seconds" in str(state["result"])


def test_a_repeated_request_must_have_the_same_options(service: Stack) -> None:
    def post(query: str) -> httpx.Response:
        headers = {"Idempotency-Key": "options-1"}
        return httpx.post(f"{service.url}/tasks/?{query}", json=CONTENT, headers=headers)

    first = post("priority=4&tag=a&tag=b&eta=2026-01-01T00:00:00Z")
    same = post("tag=b&tag=a&tag=a&eta=2026-01-01T01:00:00%2B01:00&countdown=0")
    assert (first.status_code, same.status_code) == (202, 202)
    assert first.json() == same.json()
    assert post("tag=a").status_code == 422


def test_urgent_tasks_start_before_those_that_wait(service: Stack) -> None:
    """Two processes run ordinary tasks, and each may have one more attempt."""
    eta = (datetime.now(UTC) + timedelta(seconds=2)).isoformat()
    slow = in_query("/tasks/slow?duration=1")
    usual = [slow(service, max_attempts=2).json()["task_id"] for _ in range(8)]
    urgent = [slow(service, max_attempts=2, priority=9).json()["task_id"] for _ in range(2)]
    low = slow(service, max_attempts=2, priority=0, eta=eta).json()["task_id"]
    for task_id in (*usual, *urgent, low):
        assert service.state(task_id, wait=MINUTE)["status"] == "SUCCESS"

    def started(task_id: str) -> datetime:
        found = service.scalar("SELECT started_at FROM tasks WHERE id = %s", task_id)
        assert isinstance(found, datetime)
        return found

    before = [task_id for task_id in usual if started(task_id) < max(map(started, urgent))]
    assert len(before) <= 6
    assert started(low) > max(map(started, usual))


def test_a_task_without_options_stores_none(service: Stack) -> None:
    task_id = service.post("/tasks/", CONTENT)
    assert service.state(task_id, wait=MINUTE)["status"] == "SUCCESS"
    assert service.scalar("SELECT options FROM tasks WHERE id = %s", task_id) is None
    eventually(lambda: service.scalar("SELECT count(*) FROM outbox") == 0, 10, "nothing waits")
