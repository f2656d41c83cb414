"""The documents are true: commands and clients run, links lead somewhere, nothing is left out."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING

import flower.events
import httpx
import pytest
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations
from pydantic import TypeAdapter

from backend.api.problems import Problem
from backend.api.routes.task_models import TaskState
from backend.db import ledger
from backend.settings import Settings
from backend.states import State
from tests.support import documents
from tests.support.documents import Block, Document
from tests.support.ports import free_port
from tests.support.stack import ROOT, Stack
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.servers import Postgres, RabbitMQ

AUTH = ("admin", "change-me")
BLOCK_SECONDS = 60.0
MADE_BY_READERS = {"backend/.env", "backend/tasks/word_count.py"}

# `watch` looks once. Where `jq` is missing, what the documents ask of it is done by Python.
PRELUDE = """
set -euo pipefail
watch() { shift 2; bash -c "$1"; }
command -v jq >/dev/null || jq() { python3 -c \
'import json, sys; print(json.load(sys.stdin)[sys.argv[1][1:]])' "$2"; }
"""

SERVICE = """
import backend.tasks

backend.tasks.__path__.append({folder!r})

from backend.cli import main

if __name__ == "__main__":
    main()
"""

everywhere = pytest.mark.parametrize("document", documents.documents(), ids=lambda d: d.path.name)


def example_task() -> Block:
    (found,) = (block for block in documents.blocks("python") if "@task(" in block.text)
    return found


def example_migration() -> Block:
    (found,) = (block for block in documents.blocks("python") if "def upgrade" in block.text)
    return found


def example_models() -> Block:
    (found,) = (block for block in documents.blocks("python") if "(Base)" in block.text)
    return found


def example_index() -> Block:
    """Return the recipe for a large index, which tests/integration/test_migrate_index.py runs."""
    (found,) = (block for block in documents.blocks("python") if "autocommit_block" in block.text)
    return found


class Reader:
    """Somebody who types what the documents say, in a copy of the project, beside a service."""

    def __init__(self, stack: Stack, rabbitmq: RabbitMQ, folder: Path) -> None:
        self.stack = stack
        self.flower_port = free_port()
        self.rabbitmq_port = free_port()
        self.task_id = ""
        self.folder = folder / "project"
        for name in ("backend", "examples"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, self.folder / name, ignore=ignored)
        _serve_management(rabbitmq, self.rabbitmq_port)
        environment = {"FLOWER_PORT": str(self.flower_port), "FLOWER_BASIC_AUTH": ":".join(AUTH)}
        self.stack.environment.update(environment)
        for name in ("api", "worker", "flower"):
            self.stack.start(name)
        flower = f"http://127.0.0.1:{self.flower_port}"
        eventually(lambda: _answers(f"{flower}/healthcheck"), 30, "Flower serves")
        eventually(
            lambda: httpx.get(f"{stack.url}/health/ready").json().get("degraded") == [],
            30,
            "the service is whole",
        )

    def here(self, text: str) -> str:
        """Return a text of the documents with the addresses and programs of this service."""
        for port, ours in (
            (8060, self.stack.port),
            (5555, self.flower_port),
            (15672, self.rabbitmq_port),
        ):
            text = text.replace(f"localhost:{port}", f"127.0.0.1:{ours}")
        text = text.replace(".venv/bin/python", sys.executable)
        text = text.replace(".venv/bin/celery", f"{sys.executable} -m celery")
        return documents.shortened(text)

    def run(self, *command: str) -> str:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={
                **self.stack.settings(),
                "PYTHONPATH": str(self.folder),
                "TASKS_API_URL": self.stack.url,
                "TASK_ID": self.task_id,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=BLOCK_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def type(self, block: Block) -> str:
        """Run a block of commands; a TASK_ID that it sets is there for the next."""
        mark = "--- TASK_ID="
        text = f'{PRELUDE}\n{self.here(block.text)}\necho; echo "{mark}${{TASK_ID:-}}"'
        printed, _, task_id = self.run("bash", "-c", text).rpartition(mark)
        self.task_id = task_id.strip()
        return printed

    def is_idle(self) -> bool:
        return self.stack.unfinished() == 0


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2, auth=AUTH).status_code == 200
    except httpx.TransportError:
        return False


def _serve_management(rabbitmq: RabbitMQ, port: int) -> None:
    """Have RabbitMQ serve its page and its HTTP API, as it does in docker-compose.yml."""
    plugins = rabbitmq.directory / "enabled_plugins"
    plugins.write_text("[rabbitmq_management].\n")
    rabbitmq.eval("rabbit:await_startup()")
    rabbitmq.eval(
        "application:set_env(rabbitmq_management, tcp_config,"
        f' [{{port, {port}}}, {{ip, "127.0.0.1"}}]), rabbit_plugins:ensure("{plugins}")'
    )
    eventually(lambda: _answers(f"http://127.0.0.1:{port}/"), 30, "RabbitMQ's page answers")


def _end_management(rabbitmq: RabbitMQ) -> None:
    plugins = rabbitmq.directory / "enabled_plugins"
    plugins.write_text("[].\n")
    rabbitmq.eval(f'rabbit_plugins:ensure("{plugins}")')


@pytest.fixture(scope="module")
def reader(
    postgres_server: Postgres,
    rabbitmq_server: RabbitMQ,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Reader]:
    """Give a reader of the documents, who has put CONTRIBUTING's task into a file of its own."""
    if shutil.which("curl") is None:
        pytest.skip("curl: install Debian's curl package")
    postgres_server.start()
    rabbitmq_server.start()
    folder = tmp_path_factory.mktemp("documents")
    (folder / "tasks").mkdir()
    (folder / "tasks" / "word_count.py").write_text(example_task().text)
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
            _end_management(rabbitmq_server)
    rabbitmq_server.delete_all_queues()


# --- What is typed


@everywhere
def test_each_command_does_what_the_document_shows(reader: Reader, document: Document) -> None:
    for block in document.blocks:
        if block.language != "bash" or documents.checked(block):
            continue
        answer = reader.here(block.answer.text) if block.answer else ""
        expected = documents.values(answer)
        if {"tasks": [], "total": 0} in expected or '"REVOKED"' in answer:
            eventually(reader.is_idle, BLOCK_SECONDS, "the tasks before have ended")
        printed = reader.type(block)
        values = documents.values(printed)
        if block.answer is None:
            refused = [value for value in values if "type" in value and "detail" in value]
            assert not refused, f"{block.where}: {refused}"
            continue
        assert len(expected) <= len(values), f"{block.where}: {printed}"
        for one, other in zip(expected, values[-len(expected) :], strict=True):
            found = list(documents.differences(one, other))
            assert not found, f"{block.where}: {found}"
        if block.answer.language == "http":
            head = documents.UUID.sub("ID", printed.replace("\r", ""))
            for line in documents.UUID.sub("ID", answer).partition("\n\n")[0].splitlines():
                assert line in head.splitlines(), block.where


def test_each_client_in_python_runs(reader: Reader) -> None:
    special = (example_task(), example_models(), example_migration(), example_index())
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


def test_the_example_of_a_migration_changes_the_schema_and_changes_it_back(reader: Reader) -> None:
    scope: dict[str, object] = {}
    exec(example_migration().text, scope)  # it is ours
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


def test_the_example_of_a_task_has_its_effect_and_its_route(reader: Reader) -> None:
    task_id = reader.stack.post("/tasks/word_count", {"text": "to be or not to be"})
    state = reader.stack.state(task_id, wait=30)
    assert state["result"] == {"words": 6, "different": 4}
    assert reader.stack.query("SELECT content FROM messages WHERE task_id = %s", task_id) == [
        ("counted 6 words",)
    ]
    refused = httpx.post(f"{reader.stack.url}/tasks/word_count", json={"text": ""})
    assert refused.status_code == 422


@everywhere
def test_each_page_that_is_linked_to_answers(reader: Reader, document: Document) -> None:
    for address in document.addresses:
        answer = httpx.get(reader.here(address), auth=AUTH, follow_redirects=False, timeout=10)
        assert answer.status_code == 200, address


def test_every_route_is_documented_and_no_other(reader: Reader) -> None:
    paths = httpx.get(f"{reader.stack.url}/openapi.json").json()["paths"]
    there = {f"{method.upper()} {path}" for path in paths for method in paths[path]}
    text = (ROOT / "TASKS.md").read_text()
    told = set(re.findall(r"`((?:GET|POST|PUT|PATCH|DELETE) /[^`?]*)`", text))
    assert there - {"POST /tasks/word_count"} == told


# --- What is shown


def test_every_block_is_of_a_kind_that_is_tried() -> None:
    tried = {"bash", "json", "http", "python", "javascript", "sql", "dotenv", "yaml", "text"}
    tried.add("nginx")  # tests/acceptance/test_behind_nginx.py
    for document in documents.documents():
        assert document.text.count("\n```") == 2 * len(documents.FENCE.findall(document.text))
        assert {block.language for block in document.blocks} <= tried
        for block in document.blocks:
            if block.language == "bash":
                documents.checked(block)


def test_a_command_that_nobody_knows_is_refused() -> None:
    for text in ("frobnicate\n", "make nothing\n", "docker compose logs nobody\n", "make\nls\n"):
        with pytest.raises(AssertionError):
            documents.checked(Block("X.md", 1, "bash", text))


def test_each_body_that_stands_alone_is_one_of_the_api() -> None:
    for block in documents.blocks("json"):
        (body,) = documents.values(block.text)
        assert list(body) in (["task_id", "status", "result"], list(Problem.model_fields))
        TypeAdapter(TaskState | Problem).validate_python(body)


def test_each_setting_of_an_env_file_exists() -> None:
    for block in documents.blocks("dotenv"):
        for line in block.text.splitlines():
            assert line.partition("=")[0] in documents.known_settings(), block.where


def test_prometheus_is_told_an_address_that_flower_has() -> None:
    (block,) = documents.blocks("yaml")
    assert "metrics_path: /metrics\n" in block.text
    assert f'targets: ["localhost:{Settings.model_fields["flower_port"].default}"]' in block.text


def test_every_metric_of_flower_is_documented() -> None:
    named = re.findall(r"'(flower_\w+)'", Path(flower.events.__file__).read_text())
    table = re.findall(r"^\| `(flower_\w+)`", (ROOT / "FLOWER.md").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(table)


@everywhere
def test_each_link_and_anchor_leads_somewhere(document: Document) -> None:
    assert document.links
    for target in document.links:
        name, _, anchor = target.partition("#")
        path = ROOT / name if name else document.path
        assert path.exists(), target
        if anchor:
            assert anchor in Document(path).anchors, target


@everywhere
def test_each_path_test_and_target_that_is_named_exists(document: Document) -> None:
    tests = " ".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for code in re.findall(r"`([^`\n]+)`", document.prose):
        if re.fullmatch(r"(?:backend|tests|examples|benchmarks|deploy|\.ci)/[\w/.-]*", code):
            assert code in MADE_BY_READERS or (ROOT / code).exists(), code
        elif re.fullmatch(r"(?:api|broker|db|embedded|relay|tasks|worker)/(?:\w+/)?\w+\.py", code):
            assert (ROOT / "backend" / code).exists(), code
        elif re.fullmatch(r"test_\w+", code):
            assert f"def {code}(" in tests, code
        elif re.match(r"(make|docker|\.venv/bin/tasks-api|tasks-api)( |$)", code):
            text = code.replace(".venv/bin/", "").replace("tasks-api", ".venv/bin/tasks-api")
            if text != ".venv/bin/tasks-api":
                assert documents.checked(Block(document.path.name, 0, "bash", text))


@everywhere
def test_nothing_of_the_workplace_is_named(document: Document) -> None:
    assert not re.findall(r"/work\b|/root\b|compose.lab|DESIGN|TRAPS|\bseed\b", document.text)


# --- What must not be left out


def test_every_setting_is_in_the_readme_with_its_default() -> None:
    rows = dict(
        re.findall(r"^\| `([A-Z_]+)` \| (.*?) \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    )
    assert {name.upper() for name in Settings.model_fields} == rows.keys()
    for name, field in Settings.model_fields.items():
        if field.default_factory is None and field.default not in {"", None}:
            assert rows[name.upper()] == f"`{field.default}`", name
    compose_only = set(re.findall(r"\$\{(\w+):-", (ROOT / "docker-compose.yml").read_text()))
    for name in compose_only - rows.keys():
        assert f"`{name}`" in (ROOT / "README.md").read_text(), name


def test_every_module_is_in_the_map() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    shown = set(re.findall(r"^  ([\w/]+\.py) ", text, re.MULTILINE))
    there = {
        path.relative_to(ROOT / "backend").as_posix()
        for path in (ROOT / "backend").rglob("*.py")
        if path.name != "__init__.py" and path.parent.name != "versions"
    }
    assert there == shown


def test_every_state_change_is_in_the_table() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    table = text.partition("\n## State machine\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]+`) \|", table, re.MULTILINE)
    shown = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    changing = {
        name
        for name, function in vars(ledger).items()
        if isinstance(function, FunctionType) and any(map(_changes, function.__code__.co_names))
    }
    assert changing == shown


def _changes(name: str) -> bool:
    """Return whether this is the name of a statement of the ledger that changes states."""
    statement = vars(ledger).get(name)
    return isinstance(statement, sa.TextClause) and bool(
        re.search(r"SET state =|INSERT INTO tasks", statement.text)
    )


def test_the_states_are_drawn_once() -> None:
    drawings = [block.text for block in documents.blocks("text") if "─" in block.text]
    (drawing,) = [text for text in drawings if "PENDING" in text]
    assert all(state in drawing for state in State)
