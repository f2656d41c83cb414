"""The request limits of the API: one form of each path, and bodies that are too large."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from starlette.exceptions import HTTPException

from backend.api.limits import MAX_BODY, RequestLimits

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send


class Inner:
    """The application behind the limits: records the requests and reads the body."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.received = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        self.scopes.append(scope)
        more = scope["type"] == "http"
        while more:
            message = await receive()
            self.received += len(message.get("body", b""))
            more = message.get("more_body", False)


def ask(
    inner: Inner,
    path: str = "/tasks/",
    headers: dict[str, str] | None = None,
    *chunks: bytes,
    prefix: str = "",
) -> list[Message]:
    """Send a request through the limits; return the messages that they sent themselves."""
    answered: list[Message] = []
    left = list(chunks or [b""])

    async def receive() -> Message:
        chunk = left.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(left)}

    async def send(message: Message) -> None:
        answered.append(message)

    pairs = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": path, "headers": pairs}
    asyncio.run(RequestLimits(inner, prefix)(scope, receive, send))
    return answered


@pytest.mark.parametrize(
    ("asked", "served"),
    [
        ("/", "/"),
        ("/tasks", "/tasks/"),
        ("/tasks/", "/tasks/"),
        ("/messages", "/messages/"),
        ("/messages/", "/messages/"),
        ("/tasks/slow", "/tasks/slow"),
        ("/tasks/slow/", "/tasks/slow"),
        ("/health/ready/", "/health/ready"),
        ("/tasksmore/", "/tasksmore"),
        ("", "/"),
    ],
)
def test_each_path_has_one_form_after_the_request_limits(asked: str, served: str) -> None:
    inner = Inner()
    assert ask(inner, asked) == []
    assert [served] == [scope["path"] for scope in inner.scopes]


def test_a_body_up_to_the_limit_is_passed_on_completely() -> None:
    inner = Inner()
    assert ask(inner, "/tasks/", {"content-length": str(MAX_BODY)}, b"x" * MAX_BODY) == []
    assert inner.received == MAX_BODY


def test_a_body_declared_above_the_limit_is_refused_before_the_application() -> None:
    inner = Inner()
    start, body = ask(inner, "/tasks/", {"content-length": str(MAX_BODY + 1)})
    assert inner.scopes == []
    assert start["status"] == 413
    assert json.loads(body["body"])["status"] == 413


def test_reading_a_body_stops_at_the_limit() -> None:
    inner = Inner()
    with pytest.raises(HTTPException) as stopped:
        ask(inner, "/tasks/", None, b"x" * MAX_BODY, b"x", b"never read")
    assert stopped.value.status_code == 413
    assert inner.received == MAX_BODY


def test_an_invalid_content_length_is_ignored() -> None:
    inner = Inner()
    for length in ("", "-1", "1e9", "many"):
        assert ask(inner, "/tasks/", {"content-length": length}, b"x") == []
    assert inner.received == 4


def test_events_that_are_not_requests_are_passed_on_unchanged() -> None:
    inner = Inner()

    async def nothing() -> Message:
        return {}

    async def send(message: Message) -> None:
        raise AssertionError(message)

    scope: dict[str, Any] = {"type": "lifespan", "state": {}}
    asyncio.run(RequestLimits(inner)(scope, nothing, send))
    assert inner.scopes == [scope]


def test_the_first_of_two_content_types_is_used_as_in_the_route() -> None:
    inner = Inner()
    kinds = [(b"content-type", b"application/json"), (b"content-type", b"application/x-ndjson")]
    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": "/tasks/batch",
        "headers": [*kinds, (b"content-length", str(MAX_BODY + 1).encode())],
    }
    answered: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        answered.append(message)

    asyncio.run(RequestLimits(inner)(scope, receive, send))
    assert answered[0]["status"] == 413
    assert inner.scopes == []


@pytest.mark.parametrize(
    ("asked", "served"),
    [
        ("/a/b", "/a/b/"),
        ("/a/b/", "/a/b/"),
        ("/a/b/tasks", "/a/b/tasks/"),
        ("/a/b/tasks/slow/", "/a/b/tasks/slow"),
        ("/tasks/slow", "/a/b/tasks/slow"),
        ("/", "/a/b/"),
        ("/a", "/a/b/a"),
        ("/a/bc", "/a/b/a/bc"),
        ("/a/b/a/b", "/a/b/a/b"),
        ("/a/b/a/b/", "/a/b/a/b"),
    ],
)
def test_a_path_is_served_with_and_without_the_prefix(asked: str, served: str) -> None:
    inner = Inner()
    assert ask(inner, asked, prefix="/a/b") == []
    assert [(served, "/a/b")] == [(scope["path"], scope["root_path"]) for scope in inner.scopes]


def test_ndjson_bodies_are_not_limited_behind_a_prefix() -> None:
    inner = Inner()
    headers = {"content-type": "application/x-ndjson", "content-length": str(MAX_BODY + 1)}
    assert ask(inner, "/a/b/tasks/batch", headers, b"x" * (MAX_BODY + 1), prefix="/a/b") == []
    assert inner.received == MAX_BODY + 1


@pytest.mark.parametrize(
    ("encoding", "passes"), [("identity", True), ("gzip", False), ("BR", False)]
)
def test_a_compressed_body_does_not_reach_the_application(encoding: str, *, passes: bool) -> None:
    inner = Inner()
    answered = ask(inner, "/tasks/", {"content-encoding": encoding}, b"{}")
    assert bool(inner.scopes) is passes
    assert [message["status"] for message in answered[:1]] == ([] if passes else [415])


def test_a_get_is_passed_on_unchanged() -> None:
    passed: list[tuple[object, object]] = []

    async def inner(_scope: Scope, receive: Receive, send: Send) -> None:
        passed.append((receive, send))

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        raise AssertionError(message)

    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": "/", "headers": []}
    asyncio.run(RequestLimits(inner)(scope, receive, send))
    assert passed == [(receive, send)]
