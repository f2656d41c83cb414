"""Parameters that are read without FastAPI's help: the values, and how a bad one is refused."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlencode

import pytest
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import PlainTextResponse
from fastapi.testclient import TestClient
from pydantic import BaseModel, Field

from backend.api import problems
from backend.api.quick import IDEMPOTENCY_KEY, WAIT, QuickRoute

app = FastAPI()
problems.install(app)


@app.get("/")
async def read(request: Request) -> dict[str, Any]:
    return {"key": IDEMPOTENCY_KEY.of(request), "wait": WAIT.of(request)}


client = TestClient(app)


def test_a_parameter_that_is_not_given_has_its_default() -> None:
    assert client.get("/").json() == {"key": None, "wait": 0.0}
    assert client.get("/?other=1").json() == {"key": None, "wait": 0.0}


def test_parameters_are_read() -> None:
    answer = client.get("/?wait=2.5", headers={"idempotency-key": "a-1"})
    assert answer.json() == {"key": "a-1", "wait": 2.5}


@pytest.mark.parametrize("key", ["", "two words", "x" * 256, "caf\xe9".encode("latin-1")])
def test_a_bad_key_is_refused_by_its_name(key: str | bytes) -> None:
    value = key if isinstance(key, bytes) else key.encode()
    answer = client.get("/", headers=[(b"Idempotency-Key", value)])
    assert answer.status_code == 422
    assert [fault["pointer"] for fault in answer.json()["errors"]] == ["Idempotency-Key"]


@pytest.mark.parametrize("wait", ["-1", "60.1", "nan", "inf", "soon", ""])
def test_a_bad_wait_is_refused_by_its_name(wait: str) -> None:
    answer = client.get(f"/?{urlencode({'wait': wait})}")
    assert answer.status_code == 422
    assert [fault["pointer"] for fault in answer.json()["errors"]] == ["?wait"]


def test_what_the_documentation_says_of_them() -> None:
    assert "default" not in IDEMPOTENCY_KEY.openapi["schema"]
    assert WAIT.openapi["schema"] == {"type": "number", "minimum": 0, "maximum": 60, "default": 0.0}


class Body(BaseModel):
    content: str = Field(min_length=1)
    remark: str = ""


JSON = '{"content": "x"}'

quick = APIRouter(route_class=QuickRoute)


@quick.post("/body/{number}")
async def take(number: str, body: Body, request: Request) -> Response:
    assert request.url.path.endswith(number)
    return PlainTextResponse(body.content)


app.router.routes.extend(quick.routes)


def posted(body: bytes, kind: str = "application/json") -> Any:  # noqa: ANN401 - httpx's or httpx2's
    return client.post("/body/1", content=body, headers={"Content-Type": kind})


@pytest.mark.parametrize(
    "body",
    [b'{"content": "x"}', b'\xef\xbb\xbf{"content": "x"}', '{"content": "x"}'.encode("utf-16")],
)
@pytest.mark.parametrize(
    "kind", ["application/json", "Application/JSON; a=b", "application/a+json"]
)
def test_a_body_is_read_however_json_may_be_written(body: bytes, kind: str) -> None:
    answer = posted(body, kind)
    assert (answer.status_code, answer.text) == (200, "x")


@pytest.mark.parametrize("kind", ["", "text/plain", "text/plain; application/json", "text/json"])
def test_a_body_that_is_not_said_to_be_json_is_refused(kind: str) -> None:
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
def test_what_is_wrong_with_a_body_is_named(body: bytes, pointer: str) -> None:
    answer = posted(body)
    assert answer.status_code == 422
    assert [fault["pointer"] for fault in answer.json()["errors"]] == [pointer]


def test_a_body_that_breaks_off_is_no_error_of_ours(caplog: pytest.LogCaptureFixture) -> None:
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
