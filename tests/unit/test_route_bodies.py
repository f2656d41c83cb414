"""Bodies that our route class reads: which are accepted, and which are refused."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.routed import app, client, pointers

SAYS_NOTHING = [b"", b"{}", b" { }\r\n", b"null"]


@pytest.mark.parametrize("body", SAYS_NOTHING)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_route_without_a_body_accepts_an_empty_one(body: bytes, *, chunked: bool) -> None:
    content = iter([body]) if chunked else body
    assert client.post("/query", content=content).text == "10 0"
    assert client.post("/nothing", json={}).text == "taken"


@pytest.mark.parametrize("body", [b'{"duration": 3}', b"duration=3", b"[]", b"0", b'""', b"\0"])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_route_without_a_body_refuses_one_and_says_what_to_use(
    body: bytes, *, chunked: bool
) -> None:
    answer = client.post("/query?duration=3", content=iter([body]) if chunked else body)
    assert pointers(answer) == ["#"]
    detail = "This route takes no body. Send its parameters in the query: ?duration=10&pause=0"
    assert answer.json()["detail"] == answer.json()["errors"][0]["detail"] == detail
    assert client.post("/nothing", content=body).json()["detail"] == "This route takes no body."


def posted(body: bytes, kind: str = "application/json") -> Any:  # noqa: ANN401 - httpx's or httpx2's
    return client.post("/body/1", content=body, headers={"Content-Type": kind})


@pytest.mark.parametrize(
    "body",
    [b'{"content": "x"}', b'\xef\xbb\xbf{"content": "x"}', '{"content": "x"}'.encode("utf-16")],
)
@pytest.mark.parametrize(
    "kind", ["application/json", "Application/JSON; a=b", "application/a+json"]
)
def test_a_body_is_read_in_every_json_encoding_and_media_type(body: bytes, kind: str) -> None:
    answer = posted(body, kind)
    assert (answer.status_code, answer.text) == (200, "x")


@pytest.mark.parametrize("kind", ["", "text/plain", "text/plain; application/json", "text/json"])
def test_a_body_without_a_json_content_type_is_refused(kind: str) -> None:
    assert posted(b'{"content": "x"}', kind).status_code == 422


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (b"", "#"),
        (b"{", "#"),
        (b"\xff", "#"),
        (b"[" * 100_000, "#"),
        (b"[]", "#"),
        (b"{}", "#/content"),
        (b'{"content": "\\ud800"}', "#/content"),
        (b'{"content": "x", "remark": "\\ud800"}', "#"),
    ],
)
def test_an_error_in_a_body_is_reported_with_its_pointer(body: bytes, pointer: str) -> None:
    answer = posted(body)
    assert answer.status_code == 422
    assert [fault["pointer"] for fault in answer.json()["errors"]] == [pointer]


@pytest.mark.parametrize(("items", "status"), [([], 422), ([1, 2], 200), ([1, 2, 3], 422)])
def test_the_length_limits_of_a_body_are_checked(items: list[int], status: int) -> None:
    assert client.post("/list", json=items).status_code == status


def test_a_client_that_disconnects_within_its_body_causes_no_logged_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def gone() -> dict[str, object]:
        return {"type": "http.disconnect"}

    async def ignore(_: object) -> None: ...

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/body/1",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }
    asyncio.run(app(scope, gone, ignore))
    assert caplog.records == []
