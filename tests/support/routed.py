"""An application whose routes use our route class."""

from __future__ import annotations

from collections.abc import AsyncIterator  # noqa: TC003 - FastAPI reads it
from typing import Annotated, Any

from fastapi import (
    APIRouter,
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


asked: list[int] = []


async def identify(number: int, x_token: Annotated[str, Header()], depth: int = 1) -> str:
    asked.append(number)
    if x_token != "right":
        raise HTTPException(401, "who are you?")
    return f"{x_token} {depth}"


async def choose(depth: int = 1, width: int = 1) -> int:
    chosen.append((depth, width))
    return depth * width


chosen: list[tuple[int, int]] = []


@router.get("/area")
async def area(size: Annotated[int, Depends(choose)], height: int = 1) -> Response:
    return PlainTextResponse(str(size * height))


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


@router.post("/body/{number}")
async def take(number: str, body: Note, request: Request) -> Response:
    assert request.url.path.endswith(number)
    return PlainTextResponse(body.content)


@router.post("/list")
async def take_a_list(items: Annotated[list[int], Field(min_length=1, max_length=2)]) -> Response:
    return JSONResponse(items)


app.router.routes.extend(router.routes)
client = TestClient(app)
