"""Parameters that are read without FastAPI's help: the values, and how a bad one is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator  # noqa: TC003 - FastAPI reads it
from typing import Annotated, Any
from urllib.parse import urlencode

import pytest
from fastapi import (
    APIRouter,
    BackgroundTasks,
    Body,
    Cookie,
    Depends,
    FastAPI,
    Header,
    HTTPException,
    Query,
    Request,
    Response,
)
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.testclient import TestClient
from pydantic import BaseModel, Field

from backend.api import problems
from backend.api.route import ABSENT, Route
from backend.api.submissions import IdempotencyKey  # noqa: TC001 - FastAPI reads it

app = FastAPI()
problems.install(app)
router = APIRouter(route_class=Route)


async def resource() -> AsyncIterator[int]:
    yield 1


class Note(BaseModel):
    content: str = Field(min_length=1)
    remark: str = ""


@router.get("/")
async def read(
    wait: Annotated[float, Query(ge=0, le=60)] = 0,
    limit: Annotated[int, Query(ge=1)] = 5,
    key: IdempotencyKey = ABSENT,
) -> Response:
    return JSONResponse({"key": key, "wait": wait, "limit": limit})


@router.post("/nothing")
async def take_nothing() -> Response:
    return PlainTextResponse("taken")


@router.post("/query")
async def take_a_query(duration: int = 10, pause: int = 0) -> Response:
    return PlainTextResponse(f"{duration} {pause}")


def pointers(answer: Any) -> list[str]:  # noqa: ANN401 - httpx's or httpx2's
    assert answer.status_code == 422
    return [fault["pointer"] for fault in answer.json()["errors"]]


def test_a_parameter_that_is_not_given_has_its_default() -> None:
    for query in ("", "?", "?&"):
        assert client.get(f"/{query}").json() == {"key": None, "wait": 0.0, "limit": 5}


def test_parameters_are_read() -> None:
    answer = client.get("/?wait=2.5&limit=7", headers={"idempotency-key": "a-1"})
    assert answer.json() == {"key": "a-1", "wait": 2.5, "limit": 7}


def test_of_two_headers_with_one_name_the_first_counts() -> None:
    headers = [(b"Idempotency-Key", b"a"), (b"Idempotency-Key", b"b")]
    assert client.get("/", headers=headers).json()["key"] == "a"


@pytest.mark.parametrize("key", ["", "two words", "x" * 256, "caf\xe9".encode("latin-1")])
def test_a_bad_key_is_refused_by_its_name(key: str | bytes) -> None:
    value = key if isinstance(key, bytes) else key.encode()
    answer = client.get("/", headers=[(b"Idempotency-Key", value)])
    assert pointers(answer) == ["Idempotency-Key"]


@pytest.mark.parametrize("wait", ["-1", "60.1", "nan", "inf", "soon", ""])
def test_a_bad_wait_is_refused_by_its_name(wait: str) -> None:
    assert pointers(client.get(f"/?{urlencode({'wait': wait})}")) == ["?wait"]


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("status=FAILURE", ["?status"]),
        ("status", ["?status"]),
        ("Wait=1", ["?Wait"]),
        ("=1", ["?"]),
        ("status=a&status=b&wait=1&offset=3", ["?status", "?offset"]),
        ("state=a&wait=soon&limit=0", ["?state", "?wait", "?limit"]),
        ("idempotency-key=a", ["?idempotency-key"]),
    ],
)
def test_each_unknown_parameter_is_refused_and_the_known_ones_are_listed(
    query: str, named: list[str]
) -> None:
    answer = client.get(f"/?{query}")
    assert pointers(answer) == named
    assert answer.json()["errors"][0]["detail"] == "unknown parameter; known here: wait, limit"
    assert "known here: wait, limit" in answer.json()["detail"]


def test_a_parameter_of_a_route_without_any_is_refused() -> None:
    answer = client.post("/nothing?limit=1")
    assert pointers(answer) == ["?limit"]
    assert answer.json()["errors"][0]["detail"] == "unknown parameter; this route takes none"


@pytest.mark.parametrize("query", ["limit=1&limit=2", "limit=1&limit=1", "limit=1&wait=2&limit="])
def test_a_parameter_that_is_given_twice_is_refused(query: str) -> None:
    answer = client.get(f"/?{query}")
    assert "?limit" in pointers(answer)
    assert "give it once" in answer.json()["detail"]


SAYS_NOTHING = [b"", b"{}", b" { }\r\n", b"null"]


@pytest.mark.parametrize("body", SAYS_NOTHING)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_says_nothing_passes_where_none_is_taken(body: bytes, *, chunked: bool) -> None:
    content = iter([body]) if chunked else body
    assert client.post("/query", content=content).text == "10 0"
    assert client.post("/nothing", json={}).text == "taken"


@pytest.mark.parametrize("body", [b'{"duration": 3}', b"duration=3", b"[]", b"0", b'""', b"\0"])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_where_none_is_taken_is_told_where_to_go(body: bytes, *, chunked: bool) -> None:
    answer = client.post("/query?duration=3", content=iter([body]) if chunked else body)
    assert pointers(answer) == ["#"]
    detail = "This route takes no body. Send its parameters in the query: ?duration=10&pause=0"
    assert answer.json()["detail"] == answer.json()["errors"][0]["detail"] == detail
    assert client.post("/nothing", content=body).json()["detail"] == "This route takes no body."


async def of_cookies(limit: Annotated[int, Cookie()] = 1) -> Response:
    return PlainTextResponse(str(limit))


async def of_lists(limit: Annotated[list[int], Query()] = ABSENT) -> Response:
    return PlainTextResponse(str(limit))


async def of_two_bodies(one: Note, other: Note) -> Response:
    return PlainTextResponse(one.content + other.content)


async def of_text(text: Annotated[str, Body(media_type="text/plain")]) -> Response:
    return PlainTextResponse(text)


async def of_tasks(tasks: BackgroundTasks) -> Response:
    return PlainTextResponse(str(tasks))


async def of_threads(limit: Annotated[int, Depends(lambda: 1)]) -> Response:
    return PlainTextResponse(str(limit))


async def of_a_resource(limit: Annotated[int, Depends(resource)]) -> Response:
    return PlainTextResponse(str(limit))


async def of_a_factory(limit: Annotated[int, Query(default_factory=int)]) -> Response:
    return PlainTextResponse(str(limit))


async def of_a_default_body(body: Note = Note(content="x")) -> Response:  # noqa: B008 - refused
    return PlainTextResponse(body.content)


def in_a_thread() -> Response:
    return PlainTextResponse("")


@pytest.mark.parametrize(
    "endpoint",
    [
        of_cookies,
        of_lists,
        of_two_bodies,
        of_text,
        of_tasks,
        of_threads,
        of_a_resource,
        of_a_factory,
        of_a_default_body,
        in_a_thread,
    ],
)
def test_a_declaration_that_would_be_ignored_is_refused(endpoint: Any) -> None:  # noqa: ANN401 - any function
    with pytest.raises(TypeError, match="/refused: this route class does not support"):
        router.add_api_route("/refused", endpoint, methods=["POST"])


@pytest.mark.parametrize("option", [{"exclude_none": True}, {"by_alias": False}])
def test_part_of_a_response_model_is_refused(option: dict[str, bool]) -> None:
    options: Any = {f"response_model_{name}": value for name, value in option.items()}
    with pytest.raises(TypeError, match="parts of a response model"):
        router.add_api_route("/refused", returned, **options)


def test_a_body_in_a_dependency_of_a_route_is_refused() -> None:
    async def reads(body: Note) -> None:
        assert body

    with pytest.raises(TypeError, match="a body in a dependency"):
        router.add_api_route("/refused", returned, dependencies=[Depends(reads)])


@pytest.mark.parametrize("path", ["/guarded/7", "/guarded/by/the/route/7"])
def test_a_dependency_refuses_before_the_body_is_read(path: str) -> None:
    asked.clear()
    refused = client.post(path, content=b"{nonsense", headers={"X-Token": "wrong"})
    assert (refused.status_code, refused.json()["detail"]) == (401, "who are you?")
    assert asked == [7], "once"
    answer = client.post(path, json={"content": "x"}, headers={"X-Token": "right"})
    assert (answer.status_code, answer.text) == (200, "x")


def test_what_a_dependency_declares_is_checked_and_known() -> None:
    assert pointers(client.post("/guarded/seven", json={"content": "x"})) == ["number", "x-token"]
    headers = {"X-Token": "right"}
    assert client.post("/guarded/7?depth=3", json={"content": "x"}, headers=headers).text == "x"
    assert pointers(client.post("/guarded/7?deep=3", json={"content": "x"}, headers=headers)) == [
        "?deep"
    ]


def test_a_required_parameter_that_is_not_given_is_named() -> None:
    assert pointers(client.get("/required")) == ["?limit", "x-name"]
    answer = client.get("/required?limit=2", headers={"X-Name": "me"})
    assert answer.json() == {"limit": 2, "name": "me"}


def test_a_value_is_checked_against_the_response_model() -> None:
    answer = client.get("/returned")
    assert (answer.status_code, answer.headers["content-type"]) == (201, "application/json")
    assert answer.text == '{"content":"x","remark":""}'


asked: list[int] = []


async def identify(number: int, x_token: Annotated[str, Header()], depth: int = 1) -> str:
    asked.append(number)
    if x_token != "right":
        raise HTTPException(401, "who are you?")
    return f"{x_token} {depth}"


@router.post("/guarded/{number}")
async def guarded(
    body: Note,
    who: Annotated[str, Depends(identify)],
    again: Annotated[str, Depends(identify)],
) -> Response:
    assert who == again
    return PlainTextResponse(body.content)


@router.post("/guarded/by/the/route/{number}", dependencies=[Depends(identify)])
async def guarded_by_route(number: str, body: Note) -> Response:
    return PlainTextResponse(f"{body.content}{number[1:]}")


@router.get("/required")
async def required(limit: int, x_name: Annotated[str, Header()]) -> Response:
    return JSONResponse({"limit": limit, "name": x_name})


@router.get("/returned", status_code=201)
async def returned() -> Note:
    return Note(content="x")


JSON = '{"content": "x"}'


@router.post("/body/{number}")
async def take(number: str, body: Note, request: Request) -> Response:
    assert request.url.path.endswith(number)
    return PlainTextResponse(body.content)


@router.post("/list")
async def take_a_list(items: Annotated[list[int], Field(min_length=1, max_length=2)]) -> Response:
    return JSONResponse(items)


app.router.routes.extend(router.routes)
client = TestClient(app)


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


@pytest.mark.parametrize(("items", "status"), [([], 422), ([1, 2], 200), ([1, 2, 3], 422)])
def test_the_limits_of_a_body_hold(items: list[int], status: int) -> None:
    assert client.post("/list", json=items).status_code == status


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
