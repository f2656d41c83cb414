"""Declarations that a route refuses, and what dependencies and response models do."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from fastapi import (
    BackgroundTasks,
    Body,
    Cookie,
    Depends,
    Header,
    Query,
    Response,
)
from fastapi.responses import PlainTextResponse

from backend.api.route import ABSENT
from tests.support.routed import Note, asked, chosen, client, pointers, resource, returned, router


async def of_cookies(limit: Annotated[int, Cookie()] = 1) -> Response:
    return PlainTextResponse(str(limit))


async def of_lists(limit: Annotated[list[int], Header()] = ABSENT) -> Response:
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
def test_options_for_parts_of_a_response_model_are_refused(option: dict[str, bool]) -> None:
    options: Any = {f"response_model_{name}": value for name, value in option.items()}
    with pytest.raises(TypeError, match="parts of a response model"):
        router.add_api_route("/refused", returned, **options)


def test_a_limit_of_a_route_on_its_body_is_refused() -> None:
    with pytest.raises(TypeError, match="a limit of its own on the body"):
        router.add_api_route("/refused", returned, max_body_size=10)


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
    assert asked == [7], "each dependency is called once"
    answer = client.post(path, json={"content": "x"}, headers={"X-Token": "right"})
    assert (answer.status_code, answer.text) == (200, "x")


def test_parameters_of_a_dependency_are_validated_and_known() -> None:
    assert pointers(client.post("/guarded/seven", json={"content": "x"})) == ["number", "x-token"]
    headers = {"X-Token": "right"}
    assert client.post("/guarded/7?depth=3", json={"content": "x"}, headers=headers).text == "x"
    assert pointers(client.post("/guarded/7?deep=3", json={"content": "x"}, headers=headers)) == [
        "?deep"
    ]


def test_a_dependency_on_the_query_is_called_once_for_all_requests_without_its_parameters() -> None:
    chosen.clear()
    queries = ["", "?height=2", "?depth=3", "", "?depth=3&height=2", "?width=2"]
    assert [client.get(f"/area{query}").text for query in queries] == ["1", "2", "3", "1", "6", "2"]
    assert chosen == [(1, 1), (3, 1), (3, 1), (1, 2)]
    assert pointers(client.get("/area?size=2")) == ["?size"]


def test_a_missing_required_parameter_is_named() -> None:
    assert pointers(client.get("/required")) == ["?limit", "x-name"]
    answer = client.get("/required?limit=2", headers={"X-Name": "me"})
    assert answer.json() == {"limit": 2, "name": "me"}


def test_a_value_is_checked_against_the_response_model() -> None:
    answer = client.get("/returned")
    assert (answer.status_code, answer.headers["content-type"]) == (201, "application/json")
    assert answer.text == '{"content":"x","remark":""}'
