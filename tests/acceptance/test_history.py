"""The whole record of a task, the history, and changes of many tasks, with the real processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.stack import serving
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.servers import Postgres, RabbitMQ
    from tests.support.stack import Stack

MINUTE = 60.0
CONTENT = {"content": "Hello World"}


@pytest.fixture(scope="module")
def service(
    postgres_server: Postgres, rabbitmq_server: RabbitMQ, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """Give one running service to the tests of this file."""
    folder = tmp_path_factory.mktemp("history")
    with serving(postgres_server, rabbitmq_server, folder, "api", "worker") as stack:
        yield stack


def get(stack: Stack, path: str, **query: Any) -> Any:  # noqa: ANN401 - JSON
    answer = httpx.get(f"{stack.url}{path}", params=query, timeout=20)
    assert answer.status_code == 200, answer.text
    return answer.json()


def post(stack: Stack, path: str, body: object) -> Any:  # noqa: ANN401 - JSON
    answer = httpx.post(f"{stack.url}{path}", json=body, timeout=20)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_record_of_a_task_has_everything_that_is_known_of_it(service: Stack) -> None:
    accepted = httpx.post(
        f"{service.url}/tasks/?priority=7&tag=b&tag=a&expires=600&max_attempts=2", json=CONTENT
    )
    task_id = accepted.json()["task_id"]
    state = service.state(task_id, wait=MINUTE)
    detail = get(service, f"/tasks/{task_id}/detail")
    assert {name: detail[name] for name in state} == state
    assert (detail["name"], detail["arguments"]) == ("insert_message", CONTENT)
    expires_at = detail["options"].pop("expires_at")
    assert expires_at.endswith("Z")
    assert detail["options"] == {
        "priority": 7,
        "eta": None,
        "time_limit": 60,
        "max_attempts": 2,
        "tags": ["a", "b"],
    }
    assert detail["created_at"] <= detail["started_at"] <= detail["finished_at"]
    (attempt,) = detail["attempts"]
    assert (attempt["attempt"], attempt["status"]) == (1, "SUCCESS")
    assert (detail["due_at"], detail["progress"]) == (None, None)


def test_the_record_has_each_attempt_that_started(service: Stack) -> None:
    task_id = httpx.post(
        f"{service.url}/tasks/slow?duration=30&time_limit=1&max_attempts=2"
    ).json()["task_id"]
    assert service.state(task_id, wait=MINUTE)["status"] == "FAILURE"
    attempts = get(service, f"/tasks/{task_id}/detail")["attempts"]
    assert [(each["attempt"], each["status"]) for each in attempts] == [
        (1, "FAILURE"),
        (2, "FAILURE"),
    ]
    for each in attempts:
        assert each["error_type"] == "TimeLimitExceeded"
        assert "1 seconds" in each["error"]
        assert each["worker"]
    found = get(service, "/tasks/history", error="TimeLimitExceeded")
    assert [task["task_id"] for task in found["tasks"]] == [task_id]


def test_a_waiting_task_has_no_attempts_yet(service: Stack) -> None:
    task_id = httpx.post(f"{service.url}/tasks/slow?countdown=3600").json()["task_id"]
    detail = get(service, f"/tasks/{task_id}/detail")
    assert (detail["status"], detail["attempts"], detail["started_at"]) == ("PENDING", [], None)
    assert detail["due_at"] == detail["options"]["eta"] > detail["created_at"]
    for unknown in ("nothing", "019a3f0e-7c1a-7d7e-9a53-0d8f2c7b1f55"):
        assert httpx.get(f"{service.url}/tasks/{unknown}/detail").status_code == 404


def test_the_history_is_read_page_by_page(service: Stack) -> None:
    batch = [{"arguments": CONTENT, "options": {"tags": ["pages"]}}] * 7
    answer = httpx.post(f"{service.url}/tasks/batch", json=batch).json()
    ids = [task["task_id"] for task in answer["tasks"]]
    listed: list[str] = []
    before: dict[str, str] = {}
    while True:
        page = get(service, "/tasks/history", tag="pages", limit=3, **before)
        listed += [task["task_id"] for task in page["tasks"]]
        if page["next"] is None:
            break
        before = {"before": page["next"]}
    assert listed == sorted(ids, reverse=True)


@pytest.mark.parametrize(
    "query",
    [
        "status=done",
        "created_after=2026-01-01",
        "limit=0",
        "limit=1001",
        "before=nonsense",
        "before=",
        "text=%00",
        "ids=7",
        "name=a&name=b",
        "colour=red",
    ],
)
def test_a_wrong_filter_is_refused(service: Stack, query: str) -> None:
    assert httpx.get(f"{service.url}/tasks/history?{query}").status_code == 422


def test_tasks_that_a_filter_finds_are_cancelled_and_retried_together(service: Stack) -> None:
    batch = [
        {"name": "slow", "arguments": {"duration": 0}, "options": {"tags": ["x"], "countdown": 900}}
    ] * 5
    httpx.post(f"{service.url}/tasks/batch", json=batch)
    wanted = {"filter": {"tag": ["x"]}}
    for dry_run, changed in ((True, 5), (False, 5), (False, 0)):
        answer = post(service, "/tasks/cancel", {**wanted, "dry_run": dry_run})
        assert (answer["dry_run"], answer["next"]) == (dry_run, None)
        assert answer["matched"] == answer["changed"] == changed
    answer = post(service, "/tasks/retry", wanted)
    assert (answer["matched"], answer["changed"]) == (5, 5)
    assert {task["status"] for task in answer["tasks"]} == {"RETRY"}
    ids = [task["task_id"] for task in answer["tasks"]]
    eventually(
        lambda: all(service.state(task_id)["status"] == "SUCCESS" for task_id in ids),
        MINUTE,
        "all have run",
    )


def test_each_id_is_reported(service: Stack) -> None:
    done = service.post("/tasks/", CONTENT)
    assert service.state(done, wait=MINUTE)["status"] == "SUCCESS"
    unknown = "019a3f0e-7c1a-7d7e-9a53-0d8f2c7b1f55"
    answer = post(service, "/tasks/cancel", {"ids": [done, unknown]})
    assert answer["tasks"] == [
        {"task_id": done, "status": "SUCCESS", "changed": False},
        {"task_id": unknown, "status": None, "changed": False},
    ]
    assert (answer["matched"], answer["changed"]) == (2, 0)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"ids": [], "filter": {"name": "slow"}},
        {"filter": {}},
        {"filter": {"colour": "red"}},
        {"ids": ["7"]},
        {"ids": ["019a3f0e-7c1a-7d7e-9a53-0d8f2c7b1f55"] * 10_001},
        {"ids": [], "colour": 1},
        {"ids": []},
        {"filter": {"tag": []}},
        {"filter": {"tag": [str(number) for number in range(11)]}},
        {"filter": {"status": []}},
        {"filter": {"ids": []}},
        {"filter": {"name": None}},
        {"filter": {"name": "slow"}, "before": 5},
        {"filter": {"name": "slow"}, "before": 0},
        {"filter": {"name": "slow"}, "before": "bm9uZQ"},
        {
            "ids": ["019a3f0e-7c1a-7d7e-9a53-0d8f2c7b1f55"],
            "before": "MS8wMTlhM2YwZThkM2I3Yjg4OGNlMmRkMDYyMzEyOGQyZA",
        },
    ],
)
@pytest.mark.parametrize("action", ["cancel", "retry"])
def test_a_wrong_request_changes_nothing(service: Stack, action: str, body: object) -> None:
    assert httpx.post(f"{service.url}/tasks/{action}", json=body).status_code == 422


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/tasks/cancel"),
        ("GET", "/tasks/retry"),
        ("POST", "/tasks/history"),
        ("GET", "/tasks/019a3f0e-7c1a-7d7e-9a53-0d8f2c7b1f55/cancel"),
    ],
)
def test_these_paths_have_one_method(service: Stack, method: str, path: str) -> None:
    assert httpx.request(method, f"{service.url}{path}").status_code == 405
