"""Health, root and documentation, and the commands of the seed's page as users type them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.stack import Stack, serving
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.acceptance.conftest import Broker, Database

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
ID = "[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}"
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"


@pytest.fixture(scope="module")
def service(
    contract_database: Database, contract_broker: Broker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """Give one running service to all tests of this file."""
    folder = tmp_path_factory.mktemp("pages")
    with serving(
        contract_database,
        contract_broker,
        folder,
        "api",
        "worker",
        environment={"FLOWER_PORT": "5999"},
    ) as stack:
        yield stack


@pytest.mark.parametrize("path", ["/health", "/health/live"])
def test_a_serving_process_is_healthy(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.json()) == (200, {"status": "healthy"})


def test_a_complete_service_is_ready_with_nothing_degraded(client: httpx.Client) -> None:
    expected = (200, {"status": "ready", "degraded": []})

    def is_ready() -> bool:
        answer = client.get("/health/ready")
        return expected == (answer.status_code, answer.json())

    eventually(is_ready, 10, "broker and worker are reported as available")


def test_the_root_links_to_documentation_and_flower(service: Stack, client: httpx.Client) -> None:
    links = {"docs": "/docs", "redoc": "/redoc", "flower": "http://127.0.0.1:5999"}
    for accept in ("*/*", "application/json"):
        answer = client.get("/", headers={"Accept": accept})
        assert (200, links) == (answer.status_code, answer.json())
    answer = client.get("/", headers={"Host": f"localhost:{service.port}"})
    assert answer.json()["flower"] == "http://localhost:5999"


def test_a_browser_gets_the_root_as_html(client: httpx.Client) -> None:
    answer = client.get("/", headers={"Accept": BROWSER})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    links = re.findall(r'href="([^"]*)"', answer.text)
    assert links == ["/docs", "/redoc", "http://127.0.0.1:5999"]
    assert f"curl -X POST {client.base_url}/tasks/" in answer.text


def test_the_html_page_escapes_everything_from_the_request(client: httpx.Client) -> None:
    headers = {"Accept": BROWSER, "Host": 'x"><script>alert(1)</script>'}
    assert "<script>" not in client.get("/", headers=headers).text


def operations(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def test_the_schema_names_the_tags_and_every_route(client: httpx.Client) -> None:
    schema = client.get("/openapi.json").json()
    assert [tag["name"] for tag in schema["tags"]] == ["Tasks", "Messages", "Health"]
    tags = {name: operation["tags"] for name, operation in operations(schema)}
    assert all(len(tag) == 1 for tag in tags.values())
    assert tags == {
        **tags,
        "POST /tasks/": ["Tasks"],
        "POST /tasks/slow": ["Tasks"],
        "POST /tasks/insert_message": ["Tasks"],
        "GET /tasks/": ["Tasks"],
        "GET /tasks/{task_id}": ["Tasks"],
        "GET /messages/": ["Messages"],
        "POST /messages/": ["Messages"],
        "GET /": ["Health"],
        "GET /health": ["Health"],
        "GET /health/live": ["Health"],
        "GET /health/ready": ["Health"],
    }


def test_the_schema_has_an_example_of_every_value(client: httpx.Client) -> None:
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    told = ("default", "const", "enum", "$ref")
    without = [
        f"{name}.{field}"
        for name, schema in schemas.items()
        for field, value in schema.get("properties", {}).items()
        if "examples" not in value
        and value.get("type") != "array"
        and not any(key in value for key in told)
    ]
    assert without == []


def test_the_schema_documents_errors_as_they_are_sent(client: httpx.Client) -> None:
    schema = client.get("/openapi.json").json()
    wrong = [
        (name, status)
        for name, operation in operations(schema)
        for status, answer in operation["responses"].items()
        if status >= "400" and "application/problem+json" not in answer["content"]
    ]
    assert wrong == []
    statuses = {name: set(operation["responses"]) for name, operation in operations(schema)}
    assert {"202", "413", "422", "503"} <= statuses["POST /tasks/"]
    assert {"200", "404", "422", "503"} <= statuses["GET /tasks/{task_id}"]


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_the_documentation_loads_nothing_from_other_hosts(client: httpx.Client, path: str) -> None:
    page = client.get(path)
    assert page.status_code == 200
    links = re.findall(r"""(?:src|href|url)\s*[=:]\s*["']([^"']+)["']""", page.text)
    assert links
    for link in links:
        assert re.match(r"/(?!/)", link), link
        assert client.get(link).status_code == 200, link
    assert "//" not in page.text.replace("http://www.w3.org/", "")


# The output shown on the seed's page, for single commands. Left out, with the reason:
# - GET /tasks/80e7794a-… and GET /tasks/abc-123: the ids are invented; below they are real ones.
# - `watch`, `docker compose`, `open` and the RabbitMQ API on 15672: not this service's answers.
# - `jq`, Python's `requests` and JavaScript's `axios` do the same requests once more.
# - the page shows times without a zone; ours end in Z, as in DESIGN §2.
EXAMPLES = {
    """curl -X POST http://localhost:8060/tasks/ \\
  -H "Content-Type: application/json" \\
  -d '{"content": "Hello World"}'""": (
        {"task_id": "ID", "status": "PENDING", "message": "Task enqueued successfully"}
    ),
    'curl -X POST "http://localhost:8060/tasks/slow?duration=1"': (
        {"task_id": "ID", "status": "PENDING", "message": "Slow task enqueued for 1 seconds"}
    ),
    "curl -s http://localhost:8060/tasks/ | python3 -m json.tool": {"tasks": [], "total": 0},
    "curl http://localhost:8060/tasks/": {"tasks": [], "total": 0},
    "curl http://localhost:8060/messages/": {"messages": [], "total": 0},
}


def typed(service: Stack, command: str) -> Any:  # noqa: ANN401 - any JSON
    """Run a command of the page; return its output, with ids and times replaced."""
    if shutil.which("curl") is None:
        pytest.skip("curl: install Debian's curl package")
    command = command.replace("localhost:8060", f"127.0.0.1:{service.port}")
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    lines = re.sub(TIME, "TIME", done.stdout).replace("}{", "}\n{")
    return json.loads(lines) if lines.count("\n{") == 0 else [*map(json.loads, lines.split("\n"))]


@pytest.mark.parametrize("command", EXAMPLES)
def test_each_command_of_the_seeds_page_prints_what_the_page_shows(
    service: Stack, command: str
) -> None:
    eventually(lambda: service.unfinished() == 0, 30, "earlier tasks have ended")
    service.query("DELETE FROM messages RETURNING 1")
    printed = typed(service, command)
    expected = json.dumps(EXAMPLES[command])
    assert expected == re.sub(ID, "ID", json.dumps(printed))


def test_the_complete_flow_of_the_seeds_page_works(service: Stack) -> None:
    eventually(lambda: service.unfinished() == 0, 30, "earlier tasks have ended")
    accepted = typed(service, 'curl -X POST "http://localhost:8060/tasks/slow?duration=2"')
    task_id = accepted["task_id"]
    listing = "curl http://localhost:8060/tasks/"
    active = {"tasks": [{"task_id": task_id, "status": "ACTIVE"}], "total": 1}
    eventually(lambda: typed(service, listing) == active, 5, "the task is ACTIVE")
    query = f"curl http://localhost:8060/tasks/{task_id}"
    assert {"task_id": task_id, "status": "STARTED", "result": None} == typed(service, query)
    done = {"message": "Task completed after 2 seconds"}
    ended = {"task_id": task_id, "status": "SUCCESS", "result": done}
    eventually(lambda: typed(service, query) == ended, 10, "the task has ended")
    assert typed(service, listing) == {"tasks": [], "total": 0}


def test_the_loop_of_the_seeds_page_creates_messages(service: Stack) -> None:
    eventually(lambda: service.unfinished() == 0, 30, "earlier tasks have ended")
    service.query("DELETE FROM messages RETURNING 1")
    loop = """for i in {1..5}; do
  curl -X POST http://localhost:8060/tasks/ \\
    -H "Content-Type: application/json" \\
    -d "{\\"content\\":\\"Message $i\\"}"
done"""
    assert [accepted["status"] for accepted in typed(service, loop)] == ["PENDING"] * 5
    eventually(lambda: service.unfinished() == 0, 30, "the tasks have ended")
    page = typed(service, "curl http://localhost:8060/messages/ | python3 -m json.tool")
    assert page["total"] == 5
    assert {f"Message {n}" for n in range(1, 6)} == {one["content"] for one in page["messages"]}
    assert all({"id", "content", "created_at"} == message.keys() for message in page["messages"])


# Code of a user of a generated client.
TYPED = """
import sys
from datetime import datetime
from tasks_api_client import Client, models
from tasks_api_client.api.messages import list_messages
from tasks_api_client.api.tasks import (
    get_task, list_tasks, submit_batch, submit_message, submit_slow
)

client = Client(base_url=sys.argv[1], raise_on_unexpected_status=True)
accepted = submit_message.sync(
    client=client, body=models.MessageIn(content="typed"), idempotency_key="typed"
)
assert isinstance(accepted, models.TaskAccepted)
task = get_task.sync(accepted.task_id, client=client, wait=30)
assert isinstance(task, models.TaskSucceeded), task
assert isinstance(task.result, models.MessageOut)
assert isinstance(task.result.created_at, datetime)
assert task.result in list_messages.sync(client=client).messages
slow = submit_slow.sync(client=client, duration=0)
task = get_task.sync(slow.task_id, client=client, wait=30)
assert task.result == models.SlowResult(message="Task completed after 0 seconds")
slow = submit_slow.sync(client=client, duration=2)
assert isinstance(get_task.sync(slow.task_id, client=client), models.TaskUnfinished)
assert slow.task_id in [listed.task_id for listed in list_tasks.sync(client=client).tasks]
items = [models.BatchItem(arguments={"content": "a"}), models.BatchItem({"duration": 0}, "slow")]
assert submit_batch.sync(client=client, body=items).total == 2
refused = submit_message.sync(client=client, body=models.MessageIn(content=" "))
assert isinstance(refused, models.InvalidProblem), refused
assert refused.errors[0].pointer == "#/content"
missing = get_task.sync("nothing", client=client)
assert (type(missing), missing.status) == (models.Problem, 404)
"""


def test_a_generated_client_has_no_warnings_and_reads_typed_answers(
    service: Stack, tmp_path: Path
) -> None:
    document = tmp_path / "openapi.json"
    document.write_bytes(httpx.get(f"{service.url}/openapi.json").content)
    scripts = Path(sys.executable).parent
    # The generator formats its code with the `ruff` on PATH.
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    generate: list[str | Path] = [
        scripts / "openapi-python-client",
        "generate",
        "--fail-on-warning",
    ]
    folder = tmp_path / "client"
    run([*generate, "--path", document, "--output-path", folder], environment)
    run([sys.executable, "-c", TYPED, service.url], {**environment, "PYTHONPATH": str(folder)})


def run(command: list[str | Path], environment: dict[str, str]) -> None:
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_reference_in_the_openapi_document_resolves(service: Stack) -> None:
    document = httpx.get(f"{service.url}/openapi.json").json()
    references = re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(document))
    assert references
    for reference in references:
        place = document
        for step in reference.split("/"):
            place = place[step]
