"""The routes of DESIGN §2: exact keys, statuses, headers, texts, order and paging."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from tests.support.contract import enter, remove
from tests.support.stack import Stack, serving
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from tests.acceptance.conftest import Broker, Database


TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
PATIENCE = 30.0


@pytest.fixture(scope="module")
def service(
    contract_database: Database, contract_broker: Broker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """Give one running service to all tests of this file; each leaves no task running."""
    folder = tmp_path_factory.mktemp("contract")
    with serving(contract_database, contract_broker, folder, "api", "worker") as stack:
        yield stack


def json_of(answer: httpx.Response, status: int = 200) -> dict[str, Any]:
    assert status == answer.status_code, answer.text
    assert answer.headers["content-type"] == "application/json"
    body: dict[str, Any] = answer.json()
    return body


PATHS = [
    ("POST", "/tasks", 202),
    ("POST", "/tasks/slow", 202),
    ("POST", "/tasks/insert_message", 202),
    ("GET", "/tasks", 200),
    ("GET", "/tasks/{id}", 200),
    ("GET", "/messages", 200),
    ("POST", "/messages", 201),
    ("GET", "/health", 200),
    ("GET", "/health/live", 200),
    ("GET", "/health/ready", 200),
    ("GET", "/docs", 200),
    ("GET", "/redoc", 200),
    ("GET", "/openapi.json", 200),
]


@pytest.mark.parametrize("slash", ["", "/"], ids=["bare", "slash"])
@pytest.mark.parametrize(("method", "path", "status"), PATHS)
def test_each_path_is_served_with_and_without_its_last_slash_and_never_redirected(
    client: httpx.Client, method: str, path: str, status: int, slash: str
) -> None:
    if "{id}" in path:
        answer = client.post("/tasks/", json={"content": "to be read"})
        path = path.format(id=answer.json()["task_id"])
    slow = path.endswith("slow")
    body = {"content": "by any path"} if method == "POST" and not slow else None
    query = "?duration=0" if slow else ""
    answer = client.request(method, path + slash + query, json=body, follow_redirects=False)
    assert status == answer.status_code, answer.text


def test_a_message_task_is_accepted_as_pending_and_succeeds_with_its_message(
    client: httpx.Client,
) -> None:
    answer = client.post("/tasks/", json={"content": "Grüße, 世界 🎉\n"})
    body = json_of(answer, 202)
    task_id = body["task_id"]
    expected = {"task_id": task_id, "status": "PENDING", "message": "Task enqueued successfully"}
    assert expected == body
    assert str(UUID(task_id)) == task_id
    assert f"/tasks/{task_id}" == answer.headers["location"]
    state = json_of(client.get(answer.headers["location"], params={"wait": PATIENCE}))
    result = state["result"]
    assert {"task_id": task_id, "status": "SUCCESS", "result": result} == state
    assert {"id", "content", "created_at"} == result.keys()
    assert isinstance(result["id"], int)
    assert result["content"] == "Grüße, 世界 🎉\n"
    assert TIME.fullmatch(result["created_at"])
    assert result in json_of(client.get("/messages/"))["messages"]


@pytest.mark.parametrize(
    ("query", "seconds"), [("?duration=0", 0), ("?duration=3600", 3600), ("", 10)]
)
def test_the_answer_for_a_slow_task_names_its_duration(
    service: Stack, client: httpx.Client, query: str, seconds: int
) -> None:
    answer = client.post(f"/tasks/slow{query}")
    body = json_of(answer, 202)
    message = f"Slow task enqueued for {seconds} seconds"
    assert {"task_id": body["task_id"], "status": "PENDING", "message": message} == body
    assert f"/tasks/{body['task_id']}" == answer.headers["location"]
    assert [({"duration": seconds},)] == service.query(
        "SELECT args FROM tasks WHERE id = %s", body["task_id"]
    )
    end_slow_task(service, body["task_id"])


def end_slow_task(service: Stack, task_id: str) -> None:
    """Make the worker end a task that would take too long."""
    service.query(
        "UPDATE tasks SET state = 'REVOKED', error = 'enough', finished_at = now()"
        " WHERE id = %s AND state <> 'SUCCESS' RETURNING 1", task_id
    )  # fmt: skip
    service.query("DELETE FROM outbox WHERE task_id = %s RETURNING 1", task_id)


def test_every_registered_task_has_its_own_route(client: httpx.Client) -> None:
    paths = json_of(client.get("/openapi.json"))["paths"]
    posted = {path for path, methods in paths.items() if "post" in methods}
    assert {"/tasks/", "/tasks/slow", "/tasks/insert_message"} <= posted
    body = json_of(client.post("/tasks/insert_message", json={"content": "by its name"}), 202)
    assert body["message"] == "Task enqueued successfully"
    state = json_of(client.get(f"/tasks/{body['task_id']}?wait={PATIENCE}"))
    assert state["result"]["content"] == "by its name"


def test_a_direct_message_is_written_at_once_without_a_task(
    service: Stack, client: httpx.Client
) -> None:
    tasks = service.scalar("SELECT count(*) FROM tasks")
    message = json_of(client.post("/messages/", json={"content": "at once"}), 201)
    assert {"id", "content", "created_at"} == message.keys()
    assert message["content"] == "at once"
    assert TIME.fullmatch(message["created_at"])
    assert [message] == json_of(client.get("/messages/", params={"limit": 1}))["messages"]
    assert tasks == service.scalar("SELECT count(*) FROM tasks")


def test_a_message_is_read_and_deleted_by_its_id(client: httpx.Client) -> None:
    first, second = (
        json_of(client.post("/messages/", json={"content": text}), 201) for text in ("a", "b")
    )
    path = f"/messages/{first['id']}"
    assert json_of(client.get(path)) == first
    total = json_of(client.get("/messages/"))["total"]
    assert client.delete(path, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    deleted = client.delete(path)
    assert (deleted.status_code, deleted.content) == (204, b"")
    for answer in (client.get(path), client.delete(path)):
        assert answer.status_code == 404
        assert answer.json()["detail"] == "There is no message with this id."
    rest = json_of(client.get("/messages/?limit=1"))
    assert rest == {"messages": [second], "total": total - 1}
    for wrong in ("0", "one", str(2**63)):
        assert client.get(f"/messages/{wrong}").status_code == 422


def test_pages_of_messages_go_from_newest_to_oldest_with_ids_ascending_in_a_page(
    client: httpx.Client,
) -> None:
    total = json_of(client.get("/messages/"))["total"]
    written = [
        json_of(client.post("/messages/", json={"content": f"{n}"}), 201) for n in range(120)
    ]
    newest = json_of(client.get("/messages/"))
    assert {"messages": written[-100:], "total": total + 120} == newest
    before = newest["messages"][0]["id"]
    older = json_of(client.get("/messages/", params={"before": before, "limit": 15}))
    assert {"messages": written[5:20], "total": total + 120} == older
    assert written[-1:] == json_of(client.get("/messages/?limit=1"))["messages"]
    everything = json_of(client.get("/messages/?limit=1000"))
    assert everything["total"] == len(everything["messages"])
    ids = [message["id"] for message in everything["messages"]]
    assert sorted(ids) == ids
    nothing = json_of(client.get("/messages/", params={"before": ids[0]}))
    assert {"messages": [], "total": everything["total"]} == nothing


def test_all_of_ten_slow_tasks_are_listed_until_they_have_ended(
    service: Stack, client: httpx.Client
) -> None:
    eventually(lambda: service.unfinished() == 0, PATIENCE, "earlier tasks have ended")
    assert json_of(client.get("/tasks/")) == {"tasks": [], "total": 0}
    later = enter(service, 1, due="1 h")
    # Over one connection, so that the first has not ended when the last is posted.
    answers = [client.post("/tasks/slow", params={"duration": 1}) for _ in range(10)]
    ids = [answer.json()["task_id"] for answer in answers]
    active = {}

    def two_are_active() -> bool:
        listing = json_of(client.get("/tasks/"))
        assert {"tasks", "total"} == listing.keys()
        assert all({"task_id", "status"} == task.keys() for task in listing["tasks"])
        active.update({task["task_id"]: task["status"] for task in listing["tasks"]})
        return list(active.values()).count("ACTIVE") >= 2

    eventually(two_are_active, 10, "two are ACTIVE")
    assert {*later, *ids} == active.keys()
    assert active.pop(later[0]) == "SCHEDULED"
    assert {"ACTIVE", "RESERVED"} == set(active.values())
    eventually(lambda: service.unfinished() == 1, PATIENCE, "the slow tasks have ended")
    only = {"tasks": [{"task_id": later[0], "status": "SCHEDULED"}], "total": 1}
    assert only == json_of(client.get("/tasks/"))
    remove(service, later)
    assert json_of(client.get("/tasks/")) == {"tasks": [], "total": 0}


def test_the_list_of_tasks_shows_the_oldest_and_counts_all(
    service: Stack, client: httpx.Client
) -> None:
    eventually(lambda: service.unfinished() == 0, PATIENCE, "earlier tasks have ended")
    newer = enter(service, 1005, due="1 h")
    older = enter(service, 3, due="1 h", created="-1 h")
    for query, limit in (("", 1000), ("?limit=5", 5), ("?limit=1", 1), ("?limit=1000", 1000)):
        listing = json_of(client.get(f"/tasks/{query}"))
        assert (older + newer)[:limit] == [task["task_id"] for task in listing["tasks"]]
        assert listing["total"] == 1008
    remove(service, older + newer)


def test_waiting_for_an_ended_task_returns_at_once(service: Stack, client: httpx.Client) -> None:
    task_id = service.post("/tasks/slow?duration=0")
    assert service.state(task_id, wait=PATIENCE)["status"] == "SUCCESS"
    begin = time.monotonic()
    state = json_of(client.get(f"/tasks/{task_id}?wait=60"))
    assert state["result"] == {"message": "Task completed after 0 seconds"}
    assert time.monotonic() - begin < 1


def test_wait_delays_the_answer_until_the_task_has_ended(
    service: Stack, client: httpx.Client
) -> None:
    task_id = service.post("/tasks/slow?duration=1")
    begin = time.monotonic()
    state = json_of(client.get(f"/tasks/{task_id}?wait=20"))
    done = {"message": "Task completed after 1 seconds"}
    assert {"task_id": task_id, "status": "SUCCESS", "result": done} == state
    assert 0.5 < time.monotonic() - begin < 10


def test_a_wait_that_times_out_returns_the_state_and_progress_of_a_running_task(
    service: Stack, client: httpx.Client
) -> None:
    task_id = service.post("/tasks/slow?duration=3")
    eventually(lambda: service.state(task_id)["status"] == "STARTED", 10, "the task has started")
    begin = time.monotonic()
    answer = client.get(f"/tasks/{task_id}?wait=0.5")
    assert 0.5 <= time.monotonic() - begin < 2.5
    assert {"task_id": task_id, "status": "STARTED", "result": None} == json_of(answer)
    assert re.fullmatch(r"[0-2]/3", answer.headers["progress"])
    ended = client.get(f"/tasks/{task_id}?wait={PATIENCE}")
    assert ended.json()["status"] == "SUCCESS"
    assert "progress" not in ended.headers


def test_waiting_for_an_id_that_was_never_issued_is_answered_at_once(client: httpx.Client) -> None:
    begin = time.monotonic()
    assert client.get(f"/tasks/{uuid4()}?wait=60").status_code == 404
    assert client.get("/tasks/nonsense?wait=60").status_code == 404
    assert time.monotonic() - begin < 2


@pytest.mark.parametrize(
    ("state", "error", "result"),
    [
        ("PENDING", None, None),
        ("RETRY", "not yet shown", None),
        ("FAILURE", 'the "why"', {"error": 'the "why"'}),
        ("REVOKED", "the why", {"error": "the why"}),
        ("FAILURE", "", {"error": "No reason was given"}),
    ],
)
def test_an_unsuccessful_task_shows_its_error_once_it_has_ended(
    service: Stack, client: httpx.Client, state: str, error: str | None, result: object
) -> None:
    ids = enter(service, 1, due="1 h")
    sql = "UPDATE tasks SET state = %s, error = %s WHERE id = %s RETURNING 1"
    service.query(sql, state, error, ids[0])
    told = json_of(client.get(f"/tasks/{ids[0]}"))
    assert {"task_id": ids[0], "status": state, "result": result} == told
    remove(service, ids)
