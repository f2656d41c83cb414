"""The OpenAPI document describes the API, and each path accepts what it documents."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import openapi_spec_validator
import pytest
from fastapi.testclient import TestClient
from openapi_schema_validator import OAS31Validator
from pydantic import (
    TypeAdapter,
    ValidationError,
)

from backend.api.app import create_app
from backend.tasks.insert_message import Content, MessageOut
from backend.tasks.slow import SlowResult

if TYPE_CHECKING:
    from collections.abc import Iterator


Operation = tuple[str, str, dict[str, Any]]


@pytest.fixture
def client(configured: None) -> TestClient:  # noqa: ARG001 - the settings

    return TestClient(create_app())


@pytest.fixture
def operations(client: TestClient) -> list[Operation]:
    def found() -> Iterator[Operation]:
        for path, methods in client.get("/openapi.json").json()["paths"].items():
            for method, operation in methods.items():
                yield method.upper(), path, operation

    return list(found())


@pytest.fixture
def document(client: TestClient) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/openapi.json").json()
    return found


def errors_of(operation: dict[str, Any]) -> dict[str, Any]:
    return {s: answer for s, answer in operation["responses"].items() if int(s) >= 400}


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    openapi_spec_validator.validate(document)


def test_the_operation_ids_are_short_and_stable(operations: list[Operation]) -> None:
    expected = {
        "POST /tasks/": "submit_message",
        "POST /tasks/slow": "submit_slow",
        "POST /tasks/insert_message": "submit_task_insert_message",
        "POST /tasks/batch": "submit_batch",
        "GET /tasks/": "list_tasks",
        "GET /tasks/{task_id}": "get_task",
        "POST /tasks/{task_id}/cancel": "cancel_task",
        "POST /tasks/{task_id}/retry": "retry_task",
        "GET /messages/": "list_messages",
        "POST /messages/": "create_message",
        "GET /messages/{message_id}": "get_message",
        "DELETE /messages/{message_id}": "delete_message",
        "GET /": "get_links",
        "GET /health": "get_health",
        "GET /health/live": "get_liveness",
        "GET /health/ready": "get_readiness",
    }
    names = {f"{method} {path}": each["operationId"] for method, path, each in operations}
    assert names == names | expected


def test_each_error_is_documented_as_it_is_sent_with_an_example(
    operations: list[Operation], document: dict[str, Any]
) -> None:
    for _, _, operation in operations:
        for status, response in errors_of(operation).items():
            name = "InvalidProblem" if status == "422" else "Problem"
            (content,) = response["content"].items()
            kind, described = content
            assert kind == "application/problem+json"
            assert described["schema"] == {"$ref": f"#/components/schemas/{name}"}
            assert described["example"]["status"] == int(status)
            schema = {
                **document["components"]["schemas"][name],
                "components": document["components"],
            }
            OAS31Validator(schema).validate(described["example"])


EVERYWHERE = {"405", "422", "500"}
WITH_A_BODY = EVERYWHERE | {"413", "415", "503"}


def test_each_error_is_documented_for_exactly_the_routes_where_it_occurs(
    operations: list[Operation],
) -> None:
    expected = {
        "POST /tasks/": WITH_A_BODY | {"429"},
        "POST /tasks/slow": WITH_A_BODY | {"403", "429"},
        "POST /tasks/insert_message": WITH_A_BODY | {"429"},
        "POST /tasks/batch": WITH_A_BODY | {"429"},
        "GET /tasks/": EVERYWHERE | {"503"},
        "GET /tasks/{task_id}": EVERYWHERE | {"404", "503"},
        "POST /tasks/{task_id}/cancel": EVERYWHERE | {"403", "404", "409", "503"},
        "POST /tasks/{task_id}/retry": EVERYWHERE | {"403", "404", "409", "503"},
        "GET /messages/": EVERYWHERE | {"503"},
        "POST /messages/": WITH_A_BODY,
        "GET /messages/{message_id}": EVERYWHERE | {"404", "503"},
        "DELETE /messages/{message_id}": EVERYWHERE | {"403", "404", "503"},
        "GET /": EVERYWHERE,
        "GET /health": EVERYWHERE,
        "GET /health/live": EVERYWHERE,
        "GET /health/ready": EVERYWHERE | {"503"},
    }
    statuses = {f"{method} {path}": {*errors_of(each)} for method, path, each in operations}
    assert statuses == statuses | expected


def test_the_headers_of_each_answer_are_documented(operations: list[Operation]) -> None:
    headers = {"405": ["Allow"], "429": ["Retry-After"], "503": ["Retry-After"]}
    for _, path, operation in operations:
        for status, response in operation["responses"].items():
            expected = headers.get(status, [])
            if status == "202" and path != "/tasks/batch":
                expected = ["Location"]
            if path == "/tasks/{task_id}" and status == "200":
                expected = ["Progress"]
            assert [*response.get("headers", [])] == expected


def test_routes_that_create_tasks_document_the_idempotency_key(operations: list[Operation]) -> None:
    for method, path, operation in operations:
        names = {parameter["name"] for parameter in operation.get("parameters", [])}
        changes_tasks = path in {"/tasks/cancel", "/tasks/retry"}
        creates_tasks = method == "POST" and re.fullmatch("/tasks/[a-z_]*", path) is not None
        creates_tasks &= not changes_tasks
        assert ("Idempotency-Key" in names) == creates_tasks
        if creates_tasks:
            assert "Idempotency-Key" in operation["responses"]["422"]["description"]


def test_the_answer_to_a_stream_is_documented_as_ndjson(
    operations: list[Operation], document: dict[str, Any]
) -> None:
    (batch,) = [operation for _, path, operation in operations if path == "/tasks/batch"]
    content = batch["responses"]["202"]["content"]
    assert content.keys() == {"application/json", "application/x-ndjson"}
    lines = content["application/x-ndjson"]
    assert lines["schema"]["type"] == "string"
    schema = {**lines["schema"]["contentSchema"], "components": document["components"]}
    OAS31Validator(schema).validate([*map(json.loads, lines["example"].splitlines())])
    assert "application/x-ndjson" in batch["description"]


def test_the_document_shows_the_result_of_each_task_and_its_route(
    operations: list[Operation], document: dict[str, Any]
) -> None:
    """And where to ask for it."""
    ids = {path: each for method, path, each in operations if method == "POST"}
    models = {"/tasks/": MessageOut, "/tasks/insert_message": MessageOut, "/tasks/slow": SlowResult}
    (get,) = [each for _, path, each in operations if path == "/tasks/{task_id}"]
    answer = get["responses"]["200"]["content"]["application/json"]
    results = document["components"]["schemas"]["TaskSucceeded"]["properties"]["result"]["anyOf"]
    schema = {**answer["schema"], "components": document["components"]}
    for path, model in models.items():
        assert f"`{model.__name__}`" in ids[path]["description"]
        (link,) = ids[path]["responses"]["202"]["links"].values()
        assert link["operationId"] == get["operationId"]
        assert {"$ref": f"#/components/schemas/{model.__name__}"} in results
    assert {"insert_message", "slow", "unfinished", "failed"} <= answer["examples"].keys()
    for example in answer["examples"].values():
        OAS31Validator(schema).validate(example["value"])
    MessageOut.model_validate(answer["examples"]["insert_message"]["value"]["result"])
    SlowResult.model_validate(answer["examples"]["slow"]["value"]["result"])


def test_no_parameter_default_exceeds_a_javascript_integer(
    operations: list[Operation],
) -> None:
    for _, _, operation in operations:
        for parameter in operation.get("parameters", []):
            default = parameter["schema"].get("default", 0)
            assert isinstance(default, list) or default < 2**53


def test_each_route_refuses_an_unknown_parameter_and_lists_what_it_documents(
    client: TestClient, operations: list[Operation]
) -> None:
    for method, path, operation in operations:
        known = [p["name"] for p in operation.get("parameters", []) if p["in"] == "query"]
        listed = f"known here: {', '.join(known)}" if known else "this route takes none"
        answer = client.request(
            method, f"{path}?colour=red".replace("{message_id}", "1"), content=b"{"
        )
        assert answer.status_code == 422
        (fault,) = answer.json()["errors"]
        assert fault["detail"].startswith(f"unknown parameter; {listed}")
        assert fault["pointer"] == "?colour"
        (documented,) = operation["responses"]["422"]["content"].values()
        assert answer.json() == documented["example"]
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("POST", "/tasks/nothing", 404),
        ("PUT", "/tasks/", 405),
        ("POST", "/health", 405),
        ("GET", "/docs", 200),
        ("GET", "/redoc", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/static-offline-docs/swagger-ui.css", 200),
    ],
)
def test_unknown_parameters_are_refused_only_by_existing_routes_of_ours(
    client: TestClient, method: str, path: str, status: int
) -> None:
    assert client.request(method, f"{path}?colour=red").status_code == status


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/", "GET, HEAD"),
        ("/docs", "GET, HEAD"),
        ("/tasks", "GET, HEAD, POST"),
        ("/tasks/", "GET, HEAD, POST"),
        ("/tasks/slow", "POST"),
        ("/tasks/insert_message", "POST"),
        ("/tasks/batch", "POST"),
        ("/tasks/019a3f0e-7c1a-7d7e-9a53-0d8f2c7b1f55", "GET, HEAD"),
        ("/messages/", "GET, HEAD, POST"),
        ("/health/ready", "GET, HEAD"),
    ],
)
def test_a_405_lists_the_allowed_methods_of_the_path(
    client: TestClient, path: str, allowed: str
) -> None:
    for method in ("PUT", "DELETE", "OPTIONS", "TRACE"):
        answer = client.request(method, path)
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


@pytest.mark.parametrize("path", ["/", "/health", "/health/live", "/docs", "/openapi.json"])
def test_head_is_answered_like_get(client: TestClient, path: str) -> None:
    head, get = client.head(path), client.get(path)
    assert head.status_code == 200
    assert head.headers == get.headers
    assert head.content == b""


@pytest.mark.parametrize(
    "text", ["a", " a ", "\na\n", "", " ", "\n", "\x00", "a\x00", "\x00a", "ü"]
)
def test_a_text_is_accepted_exactly_if_it_matches_the_documented_pattern(text: str) -> None:
    adapter = TypeAdapter[str](Content)
    fits = re.search(adapter.json_schema()["pattern"], text) is not None
    try:
        adapter.validate_python(text)
    except ValidationError:
        assert not fits
    else:
        assert fits
