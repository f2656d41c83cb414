"""The documents are correct: their commands, clients, queries and examples run with a service."""

from __future__ import annotations

import os
import re
import shutil
import sys
from typing import TYPE_CHECKING

import httpx
import pytest
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from tests.support import documents, shown_answers
from tests.support.documents import Document, everywhere
from tests.support.reader import AUTH, BLOCK_SECONDS, Reader, end_management
from tests.support.recipes import (
    example_application,
    example_call,
    example_index,
    example_migration,
    example_models,
    example_rename,
    example_submission,
    example_task,
    example_test,
    first_task,
)
from tests.support.stack import ROOT, Stack
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.servers import Postgres, RabbitMQ


SERVICE = """
import backend.tasks

backend.tasks.__path__.append({folder!r})

from backend.cli import main

if __name__ == "__main__":
    main()
"""


@pytest.fixture(scope="module")
def reader(
    postgres_server: Postgres,
    rabbitmq_server: RabbitMQ,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Reader]:
    """Give a reader of the documents, whose project includes CONTRIBUTING's example tasks."""
    if shutil.which("curl") is None:
        pytest.skip("curl: install Debian's curl package")
    postgres_server.start()
    rabbitmq_server.start()
    folder = tmp_path_factory.mktemp("documents")
    (folder / "tasks").mkdir()
    (folder / "tasks" / "word_count.py").write_text(example_task().text)
    (folder / "tasks" / "check_link.py").write_text(example_call().text)
    (folder / "tasks" / "greet.py").write_text(example_submission().text)
    service = SERVICE.format(folder=str(folder / "tasks"))
    (folder / "service_of_the_documents.py").write_text(service)
    environment = {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    url = postgres_server.create_database()
    with Stack(
        url, rabbitmq_server.url, folder, environment, module="service_of_the_documents"
    ) as stack:
        try:
            yield Reader(stack, rabbitmq_server, folder)
        finally:
            stack.close()
            end_management(rabbitmq_server)
    rabbitmq_server.delete_all_queues()


@everywhere
def test_each_command_does_what_the_document_shows(reader: Reader, document: Document) -> None:
    for block in document.blocks:
        if block.language != "bash" or documents.checked(block):
            continue
        answer = reader.here(block.answer.text) if block.answer else ""
        expected = shown_answers.values(answer)
        if {"tasks": [], "total": 0} in expected or '"REVOKED"' in answer:
            eventually(reader.is_idle, BLOCK_SECONDS, "earlier tasks have ended")
        printed = reader.type(block)
        values = shown_answers.values(printed)
        if block.answer is None:
            refused = [value for value in values if "type" in value and "detail" in value]
            assert not refused, f"{block.where}: {refused}"
            continue
        assert len(expected) <= len(values), f"{block.where}: {printed}"
        for one, other in zip(expected, values[-len(expected) :], strict=True):
            found = list(shown_answers.differences(one, other))
            assert not found, f"{block.where}: {found}"
        if block.answer.language == "http":
            head = shown_answers.UUID.sub("ID", printed.replace("\r", ""))
            for line in shown_answers.UUID.sub("ID", answer).partition("\n\n")[0].splitlines():
                assert line in head.splitlines(), block.where


def test_each_client_in_python_runs(reader: Reader) -> None:
    special = (
        first_task(),
        example_task(),
        example_test(),
        example_rename(),
        example_call(),
        example_submission(),
        example_application(),
        example_models(),
        example_migration(),
        example_index(),
    )
    clients = [block for block in documents.blocks("python") if block not in special]
    assert clients
    for block in clients:
        assert "Result: {'id': " in reader.run(sys.executable, "-c", reader.here(block.text))


@pytest.mark.skipif(shutil.which("node") is None, reason="node: install Debian's nodejs package")
def test_each_client_in_javascript_runs(reader: Reader) -> None:
    clients = documents.blocks("javascript")
    assert clients
    for block in clients:
        text = reader.here(block.text)
        assert "SUCCESS { id:" in " ".join(
            reader.run("node", "--input-type=module", "-e", text).split()
        )


def test_each_query_is_valid(reader: Reader) -> None:
    queries = documents.blocks("sql")
    assert queries
    for block in queries:
        returning = " RETURNING 1" if block.text.startswith("DELETE") else ""
        reader.stack.query(block.text.replace("%", "%%") + returning)


def test_the_example_migration_changes_the_schema_and_can_be_reverted(reader: Reader) -> None:
    scope: dict[str, object] = {}
    exec(example_migration().text, scope)  # this code is our own
    engine = sa.create_engine(reader.stack.database_url)
    columns = sa.text("SELECT count(*) FROM information_schema.columns WHERE table_name = 'tasks'")
    with engine.connect() as connection, Operations.context(MigrationContext.configure(connection)):
        counts = [connection.scalar(columns)]
        for name in ("upgrade", "downgrade"):
            step = scope[name]
            assert callable(step)
            step()
            counts.append(connection.scalar(columns))
        connection.rollback()
    engine.dispose()
    assert counts == [counts[0], (counts[0] or 0) + 1, counts[0]]


def test_the_example_task_has_its_effect_and_its_route(reader: Reader) -> None:
    task_id = reader.stack.post("/tasks/word_count", {"text": "to be or not to be"})
    state = reader.stack.state(task_id, wait=30)
    assert state["result"] == {"words": 6, "different": 4}
    assert reader.stack.query("SELECT content FROM messages WHERE task_id = %s", task_id) == [
        ("counted 6 words",)
    ]
    refused = httpx.post(f"{reader.stack.url}/tasks/word_count", json={"text": ""})
    assert refused.status_code == 422


def test_the_example_task_that_submits_another_has_both_effects(reader: Reader) -> None:
    state = reader.stack.state(reader.stack.post("/tasks/greet", {"name": "Ada"}), wait=30)
    assert state["status"] == "SUCCESS", state
    result = state["result"]
    assert isinstance(result, dict)
    counted = reader.stack.state(result["count_id"], wait=30)
    assert counted["result"] == {"words": 2, "different": 2}


def test_the_example_application_submits_in_its_own_transaction(reader: Reader) -> None:
    reader.stack.query("CREATE TABLE orders (customer text); SELECT 1")
    printed = reader.run(sys.executable, "-c", example_application().text)
    state = reader.stack.state(printed.split()[-1], wait=30)
    assert state["status"] == "SUCCESS", state
    assert reader.stack.query("SELECT customer FROM orders") == [("Ada",)]


@everywhere
def test_each_linked_page_of_the_service_answers(reader: Reader, document: Document) -> None:
    for address in document.addresses:
        answer = httpx.get(reader.here(address), auth=AUTH, follow_redirects=False, timeout=10)
        assert answer.status_code == 200, address


def test_every_route_is_documented_and_no_other(reader: Reader) -> None:
    paths = httpx.get(f"{reader.stack.url}/openapi.json").json()["paths"]
    there = {f"{method.upper()} {path}" for path in paths for method in paths[path]}
    text = (ROOT / "TASKS.md").read_text()
    told = set(re.findall(r"`((?:GET|POST|PUT|PATCH|DELETE) /[^`?]*)`", text))
    examples = {f"POST /tasks/{name}" for name in ("word_count", "check_link", "greet")}
    assert there - examples == told
