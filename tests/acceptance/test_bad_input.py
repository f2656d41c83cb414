"""Answers to invalid input: the right status and a helpful problem document without secrets."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from tests.support.stack import Stack, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from tests.support.servers import Postgres, RabbitMQ

JSON = {"Content-Type": "application/json"}
UNKNOWN = "019a3f0e-7c1a-7d7e-9a53-0d8f2c7b1f55"
LEAKS = re.compile(
    r"Traceback|File \"|psycopg|sqlalchemy|pydantic|SELECT |INSERT |UPDATE |127\.0\.0\.1|localhost"
)


@pytest.fixture(scope="module")
def service(
    postgres_server: Postgres, rabbitmq_server: RabbitMQ, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """Give an API without a worker, so that stored tasks do not change."""
    folder = tmp_path_factory.mktemp("bad-input")
    with serving(postgres_server, rabbitmq_server, folder, "api --no-relay") as stack:
        yield stack


def stored(service: Stack) -> list[tuple[object, ...]]:
    return service.query(
        "SELECT (SELECT count(*) FROM tasks), (SELECT count(*) FROM outbox),"
        " (SELECT count(*) FROM messages)"
    )


@pytest.fixture(autouse=True)
def nothing_is_stored(service: Stack) -> Iterator[None]:
    before = stored(service)
    yield
    assert before == stored(service)


def problem_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    """Check the form of the problem document and return it."""
    assert status == answer.status_code, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    keys = {"type", "title", "status", "detail"} | ({"errors"} if status == 422 else set())
    assert keys == problem.keys()
    assert (status, "about:blank") == (problem["status"], problem["type"])
    assert problem["title"]
    assert problem["detail"]
    for error in problem.get("errors", []):
        assert {"detail", "pointer"} == error.keys()
        assert error["detail"]
    assert not LEAKS.search(answer.text), answer.text
    return problem


def content(value: object) -> bytes:
    return json.dumps({"content": value}).encode()


BODIES = {
    "empty body": (b"", "#"),
    "not JSON": (b"{content: Hello}", "#"),
    "cut off": (b'{"content": "Hel', "#"),
    "null": (b"null", "#"),
    "array": (b'["Hello"]', "#"),
    "string": (b'"Hello"', "#"),
    "number": (b"7", "#"),
    "no content": (b"{}", "#/content"),
    "null content": (content(None), "#/content"),
    "number as content": (content(7), "#/content"),
    "boolean as content": (content(value=True), "#/content"),
    "array as content": (content(["Hello"]), "#/content"),
    "empty content": (content(""), "#/content"),
    "blank content": (content(" \t\n\u3000"), "#/content"),
    "10,001 characters": (content("x" * 10_001), "#/content"),
    "NUL": (content("a\x00b"), "#/content"),
    "lone surrogate": (content("a\ud800b"), "#/content"),
    "invalid UTF-8": (b'{"content": "a\xffb"}', "#"),
    "deeply nested": (b'{"content": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "#"),
    "number of 5,000 digits": (b'{"content": ' + b"1" * 5000 + b"}", "#"),
}


@pytest.mark.parametrize("path", ["/tasks/", "/tasks/insert_message", "/messages/"])
@pytest.mark.parametrize("case", BODIES)
def test_an_invalid_body_is_refused_with_field_and_reason(
    client: httpx.Client, case: str, path: str
) -> None:
    body, pointer = BODIES[case]
    problem = problem_of(client.post(path, content=body, headers=JSON), 422)
    assert [pointer] == [error["pointer"] for error in problem["errors"]]


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (content("x" * 10_001), "10000"),
        (content(" "), "blank"),
        (content("a\x00b"), "NUL"),
        (b"{}", "required"),
        (b"{content: Hello}", "JSON"),
    ],
)
def test_the_reason_for_a_refusal_is_in_plain_words(
    client: httpx.Client, body: bytes, word: str
) -> None:
    problem = problem_of(client.post("/tasks/", content=body, headers=JSON), 422)
    assert word in problem["detail"]
    assert word in problem["errors"][0]["detail"]


@pytest.mark.parametrize("body", [content("fits"), b"", b"content=Hello", b"[" * 1000])
@pytest.mark.parametrize(
    "headers",
    [{}, {"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"}],
    ids=["none", "text", "form"],
)
def test_a_wrong_content_type_is_answered_with_the_one_to_send(
    client: httpx.Client, headers: dict[str, str], body: bytes
) -> None:
    for path in ("/tasks/", "/messages/"):
        problem = problem_of(client.post(path, content=body, headers=headers), 422)
        assert "Content-Type: application/json" in problem["detail"]
        assert [error["pointer"] for error in problem["errors"]] == ["#"]


QUERIES = [
    *(
        ("POST", "/tasks/slow", "duration", value)
        for value in ["-1", "3601", "1.5", "NaN", "", "9" * 400, "9" * 5000, "inf", "1e3", "ten",
                      "%00", "0x10"]
    ),
    *(
        ("GET", path, "limit", value)
        for path in ("/tasks/", "/messages/")
        for value in ["0", "-1", "1001", "1.5", "", "all", "9" * 400, "NaN"]
    ),
    *(("GET", "/messages/", "before", value) for value in ["0", "-1", str(2**63), "", "x", "1.5"]),
    *(
        ("GET", f"/tasks/{UNKNOWN}", "wait", value)
        for value in ["-1", "-0.1", "60.1", "61", "NaN", "inf", "-inf", "", "x", "1e400"]
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "name", "value"),
    QUERIES,
    ids=[f"{path[1:6]}-{name}={value[:12]}" for _, path, name, value in QUERIES],
)
def test_a_parameter_out_of_range_is_refused_by_name(
    client: httpx.Client, method: str, path: str, name: str, value: str
) -> None:
    problem = problem_of(client.request(method, f"{path}?{name}={value}"), 422)
    assert [f"?{name}"] == [error["pointer"] for error in problem["errors"]]
    assert f"?{name}" in problem["detail"]


@pytest.mark.parametrize(
    "task_id",
    [
        UNKNOWN,
        str(UUID(int=0)),
        "abc-123",
        "-",
        "%20",
        "%00",
        "a%00b",
        "%ff",
        "%2e%2e",
        "a/b",
        "a%2Fb",
        "x" * 10_240,
        f"{{{UNKNOWN}}}",
        f"urn:uuid:{UNKNOWN}",
        UNKNOWN.replace("-", ""),
        "%27%20OR%201=1%20--",
    ],
    ids=lambda task_id: task_id[:12],
)
def test_an_id_that_was_never_issued_is_not_found(client: httpx.Client, task_id: str) -> None:
    problem_of(client.get(f"/tasks/{task_id}"), 404)
    problem_of(client.get(f"/tasks/{task_id}?wait=30"), 404)


@pytest.mark.parametrize(
    "name", ["thumbnail", "INSERT_MESSAGE", "tests", "x" * 10_240, "%00", "{name}"]
)
def test_an_unknown_task_name_is_answered_with_the_known_names(
    client: httpx.Client, name: str
) -> None:
    for body in (None, {"content": "Hello"}):
        problem = problem_of(client.post(f"/tasks/{name}", json=body), 404)
        assert "insert_message, slow" in problem["detail"]


def test_an_unknown_path_is_answered_with_a_link_to_the_documentation(client: httpx.Client) -> None:
    for method, path in (
        ("GET", "/nothing"),
        ("POST", "/tasks/slow/er"),
        ("GET", "/messages/7/er"),
    ):
        assert "/docs" in problem_of(client.request(method, path), 404)["detail"]


METHODS = [
    ("PUT", "/tasks/", "GET, HEAD, POST"),
    ("PATCH", "/tasks", "GET, HEAD, POST"),
    ("DELETE", "/messages/", "GET, HEAD, POST"),
    ("DELETE", f"/tasks/{UNKNOWN}", "GET, HEAD"),
    ("PUT", "/tasks/slow", "POST"),
    ("GET", "/tasks/slow", "POST"),
    ("PATCH", "/messages/7", "DELETE, GET, HEAD"),
    ("POST", "/health", "GET, HEAD"),
    ("POST", "/health/live", "GET, HEAD"),
    ("PUT", "/health/ready", "GET, HEAD"),
    ("POST", "/", "GET, HEAD"),
]


@pytest.mark.parametrize(("method", "path", "allowed"), METHODS)
def test_a_wrong_method_is_answered_with_the_allowed_ones(
    client: httpx.Client, method: str, path: str, allowed: str
) -> None:
    answer = client.request(method, path)
    problem_of(answer, 405)
    assert allowed == answer.headers["allow"]
