"""What the OpenAPI document says of the API, and that each path takes what it says."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from fastapi.testclient import TestClient
from pydantic import TypeAdapter, ValidationError

from backend.schemas import Content

if TYPE_CHECKING:
    from collections.abc import Iterator

Operation = tuple[str, str, dict[str, Any]]


@pytest.fixture
def client(configured: None) -> TestClient:  # noqa: ARG001 - the settings
    from backend.api.app import create_app

    return TestClient(create_app())


@pytest.fixture
def operations(client: TestClient) -> list[Operation]:
    def found() -> Iterator[Operation]:
        for path, methods in client.get("/openapi.json").json()["paths"].items():
            for method, operation in methods.items():
                yield method.upper(), path, operation

    return list(found())


def test_each_error_is_documented_as_it_is_answered(operations: list[Operation]) -> None:
    errors = [
        (status, response)
        for _, _, operation in operations
        for status, response in operation["responses"].items()
        if int(status) >= 400
    ]
    assert {status for status, _ in errors} == {"404", "413", "415", "422", "429", "503"}
    for status, response in errors:
        name = "InvalidProblem" if status == "422" else "Problem"
        schema = {"$ref": f"#/components/schemas/{name}"}
        assert response["content"] == {"application/problem+json": {"schema": schema}}


def test_what_creates_tasks_documents_its_key_and_its_refusals(operations: list[Operation]) -> None:
    for method, path, operation in operations:
        names = {parameter["name"] for parameter in operation.get("parameters", [])}
        creates_tasks = method == "POST" and path.startswith("/tasks/")
        assert ("Idempotency-Key" in names) == creates_tasks
        if method == "POST":
            assert operation["responses"].keys() >= {"413", "422", "503"}
        if creates_tasks:
            assert "Idempotency-Key" in operation["responses"]["422"]["description"]
            assert "429" in operation["responses"]


def test_a_stream_is_documented_as_lines(operations: list[Operation]) -> None:
    (batch,) = [operation for _, path, operation in operations if path == "/tasks/batch"]
    for content in (batch["requestBody"]["content"], batch["responses"]["202"]["content"]):
        assert content.keys() == {"application/json", "application/x-ndjson"}
        assert content["application/x-ndjson"]["schema"]["type"] == "string"
        assert content["application/x-ndjson"]["example"].count("\n") == 2


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
def test_a_path_that_does_not_take_a_method_names_those_that_it_takes(
    client: TestClient, path: str, allowed: str
) -> None:
    for method in ("PUT", "DELETE", "OPTIONS", "TRACE"):
        answer = client.request(method, path)
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


@pytest.mark.parametrize("path", ["/", "/health", "/health/live", "/docs", "/openapi.json"])
def test_head_is_answered_as_get_is(client: TestClient, path: str) -> None:
    head, get = client.head(path), client.get(path)
    assert head.status_code == 200
    assert head.headers == get.headers
    assert head.content == b""


@pytest.mark.parametrize(
    "text", ["a", " a ", "\na\n", "", " ", "\n", "\x00", "a\x00", "\x00a", "ü"]
)
def test_a_text_is_taken_exactly_if_it_fits_the_documented_pattern(text: str) -> None:
    adapter = TypeAdapter[str](Content)
    fits = re.search(adapter.json_schema()["pattern"], text) is not None
    try:
        adapter.validate_python(text)
    except ValidationError:
        assert not fits
    else:
        assert fits
