"""Submissions: many in one request, and once for each key."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.ports import free_port
from tests.support.stack import Stack, serving
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.support.servers import Postgres, RabbitMQ

MINUTE = 60.0
CLIENTS = 50
NDJSON = {"Content-Type": "application/x-ndjson"}

# One for all threads: to make one takes longer than to ask.
CLIENT = httpx.Client(timeout=20, limits=httpx.Limits(max_connections=None))


@pytest.fixture(scope="module", autouse=True)
def close_client() -> Iterator[None]:
    """Close the client's connections at the end."""
    yield
    CLIENT.close()


@pytest.fixture(scope="module")
def service(
    postgres_server: Postgres, rabbitmq_server: RabbitMQ, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """Give one running service to the tests of this file."""
    folder = tmp_path_factory.mktemp("submissions")
    with serving(postgres_server, rabbitmq_server, folder, "api", "worker") as stack:
        yield stack


@pytest.fixture(scope="module")
def replicas(service: Stack) -> Sequence[str]:
    """Give the addresses of two API processes on one database."""
    port = free_port()
    service.start("api", name="second", environment={"API_PORT": str(port)})
    second = f"http://127.0.0.1:{port}"
    eventually(lambda: _serves(second), 30, "the second API serves")
    return service.url, second


def _serves(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/live", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def post(url: str, content: str, key: str, timeout: float = 20) -> httpx.Response:
    headers = {"Idempotency-Key": key}
    body = {"content": content}
    return CLIENT.post(f"{url}/tasks/", json=body, headers=headers, timeout=timeout)


def accepted(stack: Stack, content: str) -> int:
    count = stack.scalar("SELECT count(*) FROM tasks WHERE args ->> 'content' = %s", content)
    return int(str(count))


def test_fifty_clients_with_one_key_at_two_replicas_make_one_task(
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


def test_a_client_that_gave_up_and_tries_again_has_one_task(
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
    # What the first tries left behind in the API has its say before this.
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


def test_a_key_that_comes_with_something_else_is_refused(service: Stack) -> None:
    assert post(service.url, "one", "other-1").status_code == 202
    refused = post(service.url, "two", "other-1")
    assert refused.status_code == 422
    assert [error["pointer"] for error in refused.json()["errors"]] == ["Idempotency-Key"]
    assert accepted(service, "two") == 0


def test_a_key_counts_for_a_batch_too(service: Stack) -> None:
    items = [{"arguments": {"content": f"keyed {number}"}} for number in range(3)]
    headers = {"Idempotency-Key": "batch-1"}
    url = f"{service.url}/tasks/batch"
    first, second = (httpx.post(url, json=items, headers=headers) for _ in range(2))
    assert first.status_code == 202
    assert first.json() == second.json()
    assert accepted(service, "keyed 1") == 1
    other = httpx.post(url, json=items[:2], headers=headers)
    assert other.status_code == 422


def test_keys_are_forgotten_when_their_time_is_over(service: Stack) -> None:
    first = post(service.url, "old", "old-1").json()["task_id"]
    service.query(
        "UPDATE idempotency_keys SET created_at = now() - interval '25 h' WHERE key = 'old-1'"
        " RETURNING 1"
    )
    kept = "SELECT count(*) FROM idempotency_keys WHERE key = 'old-1'"
    eventually(lambda: service.scalar(kept) == 0, 20, "the key is purged")
    assert post(service.url, "old", "old-1").json()["task_id"] != first


def test_a_batch_of_a_thousand_has_its_ids_in_order(service: Stack) -> None:
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
def test_a_batch_is_taken_as_a_whole_or_not_at_all(
    service: Stack, items: list[object], pointers: list[str]
) -> None:
    answer = httpx.post(f"{service.url}/tasks/batch", json=items, timeout=20)
    assert answer.status_code == 422, answer.text
    assert [error["pointer"] for error in answer.json()["errors"]] == pointers
    assert accepted(service, "spoilt") == 0


def test_a_body_that_another_sites_page_may_send_is_no_batch(service: Stack) -> None:
    body = json.dumps([{"arguments": {"content": "forged"}}])
    for kind in ("text/plain", "text/plain; charset=application/json"):
        headers = {"Content-Type": kind}
        answer = httpx.post(f"{service.url}/tasks/batch", content=body, headers=headers)
        assert answer.status_code == 422
    assert accepted(service, "forged") == 0


def test_of_a_stream_each_line_is_answered_and_bad_ones_are_named(service: Stack) -> None:
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


def test_a_long_stream_is_taken_in_the_order_of_its_lines(service: Stack) -> None:
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


def keyed(service: Stack, path: str, key: str, body: object) -> httpx.Response:
    headers = {"Idempotency-Key": key}
    return CLIENT.post(f"{service.url}{path}", json=body, headers=headers)


def stream(url: str, lines: Sequence[str], key: str = "") -> list[dict[str, Any]]:
    """Post contents as NDJSON and return the answers of the lines."""
    text = "".join(json.dumps({"arguments": {"content": line}}) + "\n" for line in lines)
    headers = NDJSON | ({"Idempotency-Key": key} if key else {})
    answer = CLIENT.post(f"{url}/tasks/batch", content=text, headers=headers)
    assert answer.status_code == 202, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def test_a_key_counts_for_the_form_of_request_that_it_first_came_with(service: Stack) -> None:
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


def test_no_key_of_a_client_is_that_of_a_streams_part(service: Stack) -> None:
    lines = [f"part {number}" for number in range(1001)]
    for key in ("part-1/0", "part-1/1000"):
        assert post(service.url, lines[-1], key).status_code == 202
    told = stream(service.url, lines, "part-1")
    assert {each["status"] for each in told} == {"PENDING"}
    assert stream(service.url, lines, "part-1") == told
    assert accepted(service, lines[-1]) == 3


@contextmanager
def failing(service: Stack, how: str) -> Iterator[None]:
    """Let PostgreSQL do something before it writes a task with the content `fails`."""
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


def test_a_stream_keeps_the_ids_of_what_may_have_been_stored(service: Stack) -> None:
    with failing(service, "PERFORM pg_terminate_backend(pg_backend_pid())"):
        told = stream(service.url, ["sure"] * 1000 + ["fails", "unsure"])
    assert [each["status"] for each in told] == ["PENDING"] * 1000 + ["UNKNOWN"] * 2
    assert len({each["task_id"] for each in told}) == 1002
    assert "ask for its state" in told[1001]["errors"][0]["detail"]
    unsure = httpx.get(f"{service.url}/tasks/{told[1001]['task_id']}")
    assert unsure.status_code == 404


def test_a_stream_tells_the_ids_of_what_was_stored_whatever_fails_later(service: Stack) -> None:
    with failing(service, "RAISE EXCEPTION ''a fault of ours''"):
        told = stream(service.url, ["stored"] * 1000 + ["fails", "with it"])
    assert [each["status"] for each in told] == ["PENDING"] * 1000 + ["REFUSED"] * 2
    assert len({each["task_id"] for each in told[:1000]}) == 1000
    assert "logged" in told[1000]["errors"][0]["detail"]
    assert (accepted(service, "stored"), accepted(service, "with it")) == (1000, 0)


@contextmanager
def slow_commit(service: Stack, table: str, condition: str) -> Iterator[None]:
    """Let a commit that inserts such a row into a table take a second."""
    service.query(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM pg_sleep(1); RETURN NULL; END';"
        f"CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON {table} DEFERRABLE INITIALLY DEFERRED"
        f" FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION wait();"
        "SELECT 1"
    )
    yield
    service.query(f"DROP TRIGGER wait ON {table}; DROP FUNCTION wait; SELECT 1")


def test_a_task_is_accepted_after_its_commit(service: Stack) -> None:
    with slow_commit(service, "tasks", "NEW.args ->> 'content' = 'slow commit'"):
        answer = CLIENT.post(f"{service.url}/tasks/", json={"content": "slow commit"})
        assert accepted(service, "slow commit") == 1
    assert answer.status_code == 202
    assert answer.elapsed.total_seconds() >= 1


def test_a_key_whose_answer_was_lost_with_the_api_has_its_first_answer(service: Stack) -> None:
    port = free_port()
    service.start("api", name="killed", environment={"API_PORT": str(port)})
    url = f"http://127.0.0.1:{port}"
    eventually(lambda: _serves(url), 30, "the API serves")
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
