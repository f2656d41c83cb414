"""Submissions with a key: one task for each key, even if the answer is lost."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from typing import TYPE_CHECKING
from uuid import uuid4

import httpx
import pytest

from tests.support.ports import free_port
from tests.support.stack import Stack, serving
from tests.support.submissions import (
    accepted,
    keyed,
    post,
    serves,
    slow_commit,
    stream,
)
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.support.servers import Postgres, RabbitMQ

pytestmark = pytest.mark.usefixtures("closing_client")


MINUTE = 60.0
CLIENTS = 50


@pytest.fixture(scope="module")
def service(
    postgres_server: Postgres, rabbitmq_server: RabbitMQ, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """Give one running service to the tests of this file."""
    folder = tmp_path_factory.mktemp("submission-keys")
    with serving(postgres_server, rabbitmq_server, folder, "api", "worker") as stack:
        yield stack


@pytest.fixture(scope="module")
def replicas(service: Stack) -> Sequence[str]:
    """Give the addresses of two API processes on one database."""
    port = free_port()
    service.start("api", name="second", environment={"API_PORT": str(port)})
    second = f"http://127.0.0.1:{port}"
    eventually(lambda: serves(second), 30, "the second API serves")
    return service.url, second


def test_fifty_clients_with_one_key_on_two_replicas_create_one_task(
    service: Stack, replicas: Sequence[str]
) -> None:
    start = threading.Barrier(CLIENTS)

    def ask(url: str) -> httpx.Response:
        start.wait(20)
        return post(url, "fifty", "fifty-1")

    urls = [url for url, _ in zip(cycle(replicas), range(CLIENTS), strict=False)]
    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(ask, urls))
    assert {answer.status_code for answer in answers} == {202}
    (task_id,) = {answer.json()["task_id"] for answer in answers}
    assert {answer.headers["location"] for answer in answers} == {f"/tasks/{task_id}"}
    assert accepted(service, "fifty") == 1
    assert service.state(task_id, wait=MINUTE)["status"] == "SUCCESS"


def test_a_client_that_repeats_a_timed_out_request_creates_one_task(
    service: Stack, replicas: Sequence[str], postgres_server: Postgres
) -> None:
    first, second = replicas
    postgres_server.freeze()
    try:
        for _ in range(3):
            with pytest.raises(httpx.TimeoutException):
                post(first, "again", "again-1", timeout=0.5)
    finally:
        postgres_server.thaw()
    answers = [post(url, "again", "again-1") for url in (first, second, first)]
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["task_id"] for answer in answers}) == 1
    # Any request left over from the first attempts is handled before this task.
    service.state(answers[0].json()["task_id"], wait=MINUTE)
    assert accepted(service, "again") == 1


def test_two_replicas_with_the_same_keys_in_opposite_order_do_not_deadlock(
    service: Stack, replicas: Sequence[str], postgres_server: Postgres
) -> None:
    count = 20
    for number in range(20):
        keys = [f"round-{number}-{place:02d}" for place in range(count)]
        start = threading.Barrier(2 * count)

        def ask(url: str, key: str, start: threading.Barrier = start) -> httpx.Response:
            start.wait(20)
            return post(url, key, key)

        orders = [(replicas[0], key) for key in keys] + [(replicas[1], key) for key in keys[::-1]]
        with ThreadPoolExecutor(2 * count) as pool:
            answers = list(pool.map(lambda asked: ask(*asked), orders))
        assert {answer.status_code for answer in answers} == {202}
        told = [answer.json()["task_id"] for answer in answers]
        assert told[:count] == told[count:][::-1]
        assert len(set(told)) == count
    assert "deadlock detected" not in postgres_server.log
    written = "SELECT count(*) FROM tasks WHERE args ->> 'content' LIKE 'round-%%'"
    assert service.scalar(written) == 20 * count


def test_a_key_reused_with_different_content_is_refused(service: Stack) -> None:
    assert post(service.url, "one", "other-1").status_code == 202
    refused = post(service.url, "two", "other-1")
    assert refused.status_code == 422
    assert [error["pointer"] for error in refused.json()["errors"]] == ["Idempotency-Key"]
    assert accepted(service, "two") == 0


def test_a_key_works_for_a_batch(service: Stack) -> None:
    items = [{"arguments": {"content": f"keyed {number}"}} for number in range(3)]
    headers = {"Idempotency-Key": "batch-1"}
    url = f"{service.url}/tasks/batch"
    first, second = (httpx.post(url, json=items, headers=headers) for _ in range(2))
    assert first.status_code == 202
    assert first.json() == second.json()
    assert accepted(service, "keyed 1") == 1
    other = httpx.post(url, json=items[:2], headers=headers)
    assert other.status_code == 422


@pytest.mark.parametrize(
    ("path", "body", "media_type"),
    [
        ("/tasks/", '{"content": "stored"}', "application/json"),
        ("/tasks/slow?duration=0", "", "application/json"),
        ("/tasks/batch", '[{"arguments": {"content": "stored"}}]', "application/json"),
        (
            "/tasks/batch",
            (
                '{"arguments": {"content": "stored"}}\n{"name": "none"}\n'
                '{"name": "slow", "arguments": {"duration": 0}}\n'
            ),
            "application/x-ndjson",
        ),
    ],
)
def test_the_stored_answer_is_the_one_that_was_sent_as_the_previous_version_expects(
    service: Stack, path: str, body: str, media_type: str
) -> None:
    key = f"sent-{uuid4()}"
    headers = {"Idempotency-Key": key, "Content-Type": media_type}
    first, again = (
        httpx.post(f"{service.url}{path}", content=body, headers=headers) for _ in range(2)
    )
    assert first.status_code == 202
    assert first.text == again.text
    query = "SELECT answer FROM idempotency_keys WHERE key = %s"
    assert service.scalar(query, key) == first.text


def test_keys_are_deleted_after_their_lifetime(service: Stack) -> None:
    first = post(service.url, "old", "old-1").json()["task_id"]
    service.query(
        "UPDATE idempotency_keys SET created_at = now() - interval '25 h' WHERE key = 'old-1'"
        " RETURNING 1"
    )
    kept = "SELECT count(*) FROM idempotency_keys WHERE key = 'old-1'"
    eventually(lambda: service.scalar(kept) == 0, 20, "the key is purged")
    assert post(service.url, "old", "old-1").json()["task_id"] != first


def test_a_key_is_valid_only_for_the_kind_of_request_that_first_used_it(service: Stack) -> None:
    one, many = {"content": "form"}, [{"arguments": {"content": "form"}}]
    assert keyed(service, "/tasks/batch", "form-1", many).status_code == 202
    assert keyed(service, "/tasks/", "form-2", one).status_code == 202
    (told,) = stream(service.url, ["form"], "form-3")
    assert told["status"] == "PENDING"
    for key in ("form-1", "form-2", "form-3"):
        answers = [
            keyed(service, "/tasks/", key, one).status_code,
            keyed(service, "/tasks/batch", key, many).status_code,
            stream(service.url, ["form"], key)[0]["status"],
        ]
        refused = [422, 422, "REFUSED"]
        place = ("form-2", "form-1", "form-3").index(key)
        assert answers[:place] + answers[place + 1 :] == refused[:place] + refused[place + 1 :]
        assert answers[place] in {202, "PENDING"}
    assert accepted(service, "form") == 3


def test_the_keys_of_a_streams_parts_differ_from_any_client_key(service: Stack) -> None:
    lines = [f"part {number}" for number in range(1001)]
    for key in ("part-1/0", "part-1/1000"):
        assert post(service.url, lines[-1], key).status_code == 202
    told = stream(service.url, lines, "part-1")
    assert {each["status"] for each in told} == {"PENDING"}
    assert stream(service.url, lines, "part-1") == told
    assert accepted(service, lines[-1]) == 3


def test_a_key_whose_answer_was_lost_in_a_crash_returns_the_first_tasks(service: Stack) -> None:
    port = free_port()
    service.start("api", name="killed", environment={"API_PORT": str(port)})
    url = f"http://127.0.0.1:{port}"
    eventually(lambda: serves(url), 30, "the API serves")
    with (
        slow_commit(service, "idempotency_keys", "NEW.key = 'lost-1'"),
        ThreadPoolExecutor(1) as pool,
    ):
        asked = pool.submit(post, url, "lost", "lost-1")
        committing = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        eventually(lambda: service.scalar(committing), 10, "the commit is under way")
        service.kill("killed")
        assert isinstance(asked.exception(20), httpx.TransportError)
        answers = [post(service.url, "lost", "lost-1") for _ in range(2)]
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["task_id"] for answer in answers}) == 1
    assert accepted(service, "lost") == 1
    task_id = answers[0].json()["task_id"]
    assert service.state(task_id, wait=MINUTE)["status"] == "SUCCESS"
