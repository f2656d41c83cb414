"""Submissions: one, many in one request, and streams."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.stack import Stack, serving
from tests.support.submissions import (
    CLIENT,
    NDJSON,
    accepted,
    slow_commit,
    stream,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.servers import Postgres, RabbitMQ

pytestmark = pytest.mark.usefixtures("closing_client")


MINUTE = 60.0


@pytest.fixture(scope="module")
def service(
    postgres_server: Postgres, rabbitmq_server: RabbitMQ, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """Give one running service to the tests of this file."""
    folder = tmp_path_factory.mktemp("submissions")
    with serving(postgres_server, rabbitmq_server, folder, "api", "worker") as stack:
        yield stack


def test_a_batch_of_a_thousand_returns_its_ids_in_order(service: Stack) -> None:
    items = [{"arguments": {"content": f"batch {number}"}} for number in range(1000)]
    answer = httpx.post(f"{service.url}/tasks/batch", json=items, timeout=20)
    assert answer.status_code == 202
    body: dict[str, Any] = answer.json()
    assert body["total"] == 1000
    assert {task["status"] for task in body["tasks"]} == {"PENDING"}
    ids = [task["task_id"] for task in body["tasks"]]
    rows = dict(service.query("SELECT CAST(id AS text), args ->> 'content' FROM tasks"))
    assert [rows[task_id] for task_id in ids] == [f"batch {number}" for number in range(1000)]
    for task_id in (ids[0], ids[-1]):
        assert service.state(task_id, wait=MINUTE)["status"] == "SUCCESS"


@pytest.mark.parametrize(
    ("items", "pointers"),
    [
        ([], ["#"]),
        ([{"arguments": {"content": "spoilt"}}] * 1001, ["#"]),
        ([{"arguments": {"content": "spoilt"}}, {"name": "nobody", "arguments": {}}], ["#/1/name"]),
        (
            [{"arguments": {"content": "spoilt"}}, {"arguments": {"content": ""}}, 3],
            ["#/2"],
        ),
        ([{"arguments": {"content": "spoilt"}}, {"arguments": {}}], ["#/1/arguments/content"]),
    ],
    ids=["empty", "too many", "unknown task", "no object", "no content"],
)
def test_a_batch_is_accepted_completely_or_not_at_all(
    service: Stack, items: list[object], pointers: list[str]
) -> None:
    answer = httpx.post(f"{service.url}/tasks/batch", json=items, timeout=20)
    assert answer.status_code == 422, answer.text
    assert [error["pointer"] for error in answer.json()["errors"]] == pointers
    assert accepted(service, "spoilt") == 0


def test_a_body_that_a_cross_site_page_can_send_is_not_accepted_as_a_batch(service: Stack) -> None:
    body = json.dumps([{"arguments": {"content": "forged"}}])
    for kind in ("text/plain", "text/plain; charset=application/json"):
        headers = {"Content-Type": kind}
        answer = httpx.post(f"{service.url}/tasks/batch", content=body, headers=headers)
        assert answer.status_code == 422
    assert accepted(service, "forged") == 0


def test_each_line_of_a_stream_is_answered_and_errors_name_the_line(service: Stack) -> None:
    lines = [
        json.dumps({"name": "slow", "arguments": {"duration": 0}}),
        "",
        "{",
        json.dumps({"arguments": {"content": "streamed"}}),
        json.dumps({"arguments": {"content": ""}}),
    ]
    answer = httpx.post(
        f"{service.url}/tasks/batch", content="\n".join(lines), headers=NDJSON, timeout=20
    )
    assert answer.status_code == 202
    told = [json.loads(line) for line in answer.text.splitlines()]
    assert [each["line"] for each in told] == [1, 3, 4, 5]
    assert ["task_id" in each for each in told] == [True, False, True, False]
    assert told[3]["errors"][0]["pointer"] == "#/arguments/content"
    for place in (0, 2):
        assert service.state(told[place]["task_id"], wait=MINUTE)["status"] == "SUCCESS"


def test_a_long_stream_is_accepted_in_line_order(service: Stack) -> None:
    count = 2500
    lines = (
        json.dumps({"arguments": {"content": f"line {number}"}}) + "\n" for number in range(count)
    )
    answer = httpx.post(
        f"{service.url}/tasks/batch",
        content=(line.encode() for line in lines),
        headers=NDJSON,
        timeout=60,
    )
    ids = [json.loads(line)["task_id"] for line in answer.text.splitlines()]
    rows = dict(service.query("SELECT CAST(id AS text), args ->> 'content' FROM tasks"))
    assert [rows[task_id] for task_id in ids] == [f"line {number}" for number in range(count)]


@contextmanager
def failing(service: Stack, how: str) -> Iterator[None]:
    """Make PostgreSQL run a statement before it writes a task with the content `fails`."""
    service.query(
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS"
        f" 'BEGIN {how}; RETURN NEW; END';"
        "CREATE TRIGGER fail BEFORE INSERT ON tasks FOR EACH ROW"
        " WHEN (NEW.args ->> 'content' = 'fails') EXECUTE FUNCTION fail();"
        "SELECT 1"
    )
    try:
        yield
    finally:
        service.query("DROP TRIGGER fail ON tasks; DROP FUNCTION fail; SELECT 1")


def test_a_stream_returns_the_ids_of_tasks_that_may_have_been_stored(service: Stack) -> None:
    with failing(service, "PERFORM pg_terminate_backend(pg_backend_pid())"):
        told = stream(service.url, ["sure"] * 1000 + ["fails", "unsure"])
    assert [each["status"] for each in told] == ["PENDING"] * 1000 + ["UNKNOWN"] * 2
    assert len({each["task_id"] for each in told}) == 1002
    assert "ask for its state" in told[1001]["errors"][0]["detail"]
    unsure = httpx.get(f"{service.url}/tasks/{told[1001]['task_id']}")
    assert unsure.status_code == 404


def test_a_stream_returns_the_ids_of_stored_tasks_when_a_later_part_fails(service: Stack) -> None:
    with failing(service, "RAISE EXCEPTION ''a fault of ours''"):
        told = stream(service.url, ["stored"] * 1000 + ["fails", "with it"])
    assert [each["status"] for each in told] == ["PENDING"] * 1000 + ["REFUSED"] * 2
    assert len({each["task_id"] for each in told[:1000]}) == 1000
    assert "logged" in told[1000]["errors"][0]["detail"]
    assert (accepted(service, "stored"), accepted(service, "with it")) == (1000, 0)


def test_a_task_is_accepted_after_its_commit(service: Stack) -> None:
    with slow_commit(service, "tasks", "NEW.args ->> 'content' = 'slow commit'"):
        answer = CLIENT.post(f"{service.url}/tasks/", json={"content": "slow commit"})
        assert accepted(service, "slow commit") == 1
    assert answer.status_code == 202
    assert answer.elapsed.total_seconds() >= 1
