"""How a request finds its route, and that there is no other way."""

from __future__ import annotations

import pytest
from fastapi import APIRouter, FastAPI, Response
from fastapi.responses import PlainTextResponse
from fastapi.testclient import TestClient
from starlette.exceptions import HTTPException

from backend.api import problems
from backend.api.app import create_app
from backend.api.route import Route
from backend.api.route_table import RouteTable

pytestmark = pytest.mark.usefixtures("configured")

router = APIRouter(route_class=Route)


@router.get("/tasks/{task_id}")
async def one(task_id: str) -> Response:
    return PlainTextResponse(f"one {task_id}")


@router.post("/tasks/{name}", include_in_schema=False)
async def other(name: str) -> Response:
    return PlainTextResponse(f"other {name}")


@router.post("/tasks/slow")
async def slow() -> Response:
    return PlainTextResponse("slow")


@router.get("/both")
async def both() -> Response:
    return PlainTextResponse("get")


@router.post("/both")
async def both_too() -> Response:
    return PlainTextResponse("post")


app = FastAPI()
problems.install(app)
app.router.routes += router.routes
app.router.routes.insert(0, RouteTable(app.router.routes))
client = TestClient(app)


def test_a_literal_path_wins_over_one_with_parameters_in_any_order() -> None:
    assert client.post("/tasks/slow").text == "slow"
    assert client.post("/tasks/fast").text == "other fast"
    assert client.get("/tasks/fast").text == "one fast"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/tasks/slow", "POST"),
        ("GET", "/tasks/slow", "POST"),
        ("PUT", "/tasks/7", "GET, HEAD"),
        ("DELETE", "/both", "GET, HEAD, POST"),
    ],
)
def test_a_wrong_method_is_answered_with_the_allowed_methods(
    method: str, path: str, allowed: str
) -> None:
    answer = client.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


def test_an_unknown_path_is_not_found() -> None:
    assert client.get("/nowhere").status_code == 404


def test_the_path_of_a_route_is_found_by_its_name() -> None:
    assert app.url_path_for("one", task_id="7") == "/tasks/7"


def test_two_routes_with_the_same_method_and_path_are_refused() -> None:
    with pytest.raises(TypeError, match="is declared twice"):
        RouteTable([*router.routes, *router.routes])


def test_no_route_of_the_application_bypasses_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object) -> None:
        raise HTTPException(401, "who are you?")

    monkeypatch.setattr(RouteTable, "handle", refuse)
    application = create_app()
    served = TestClient(application)
    paths = [str(getattr(route, "path", "/")) for route in application.router.routes]
    assert {"/docs", "/openapi.json", "/tasks/{task_id}", "/health"} <= set(paths)
    assert {path: served.get(path).status_code for path in paths} == dict.fromkeys(paths, 401)
