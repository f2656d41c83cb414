"""docker-compose.yml: cheap checks of what it says, and on demand all of it for real.

`TESTS_COMPOSE=1 make test ARGS=tests/acceptance/test_compose.py` builds the image, starts the stack
under a name and ports of its own, kills each container in turn, and removes all of it again.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import threading
import time
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from backend.settings import Settings
from tests.support.ports import free_port
from tests.support.stack import ROOT, Posting, Stack
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

EXAMPLE = (ROOT / ".env.example").read_text()
COMPOSE_FILE = (ROOT / "docker-compose.yml").read_text()
OURS = {"api", "worker", "flower", "migrate"}
PORTS = {"API_PORT": 8060, "FLOWER_PORT": 5555, "RABBITMQ_UI_PORT": 15672}
MESSAGES = 300
DOWN_SECONDS = 5.0
RECOVERY_SECONDS = 120.0


def _assignments(text: str) -> dict[str, str]:
    """Return the settings of a .env file, commented out or not."""
    return dict(re.findall(r"^#?([A-Z][A-Z_]*)=(.*)$", text, re.MULTILINE))


def _without_settings() -> dict[str, str]:
    """Return this process's environment without what .env.example can set."""
    names = {*_assignments(EXAMPLE), "COMPOSE_FILE", "COMPOSE_PROFILES", "COMPOSE_PROJECT_NAME"}
    return {name: value for name, value in os.environ.items() if name not in names}


@functools.cache
def _compose_is_missing() -> bool:
    if shutil.which("docker") is None:
        return True
    asked = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    return asked.returncode != 0


needs_compose = pytest.mark.skipif(
    _compose_is_missing(),
    reason="docker compose: install Debian's docker-compose package (13 or later)",
)


def _config(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return docker-compose.yml as Compose understands it, whatever .env lies beside it."""
    ask = ["docker", "compose", "--env-file", os.devnull, "--profile", "*", "config"]
    done = subprocess.run(
        [*ask, "--format", "json"],
        cwd=ROOT,
        env={**_without_settings(), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    config: dict[str, Any] = json.loads(done.stdout)
    return config


def _published(config: Mapping[str, Any]) -> set[tuple[str, int]]:
    return {
        (port.get("host_ip", "everywhere"), int(port["published"]))
        for service in config["services"].values()
        for port in service.get("ports", [])
    }


@needs_compose
def test_only_three_ports_are_published_and_on_this_machine_only() -> None:
    assert _published(_config({})) == {("127.0.0.1", port) for port in PORTS.values()}


@needs_compose
def test_each_published_port_can_be_changed() -> None:
    changed = {name: str(port + 1) for name, port in PORTS.items()}
    assert _published(_config(changed)) == {("127.0.0.1", port + 1) for port in PORTS.values()}


@needs_compose
def test_containers_of_ours_can_do_little() -> None:
    services = _config({})["services"]
    for name in OURS:
        service = services[name]
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


@needs_compose
def test_credentials_reach_servers_and_clients_alike() -> None:
    services = _config(
        {
            "RABBITMQ_USER": "rabbit",
            "RABBITMQ_PASSWORD": "carrot",
            "POSTGRES_USER": "elephant",
            "POSTGRES_PASSWORD": "peanut",
        }
    )["services"]
    for name in OURS:
        given = services[name]["environment"]
        assert given["CELERY_BROKER_URL"] == "amqp://rabbit:carrot@rabbitmq:5672//"
        assert given["DATABASE_URL"] == (
            "postgresql+psycopg2://elephant:peanut@postgres:5432/tasks"
        )
    assert services["rabbitmq"]["environment"] == {
        "RABBITMQ_DEFAULT_USER": "rabbit",
        "RABBITMQ_DEFAULT_PASS": "carrot",
    }
    assert services["postgres"]["environment"] == {
        "POSTGRES_USER": "elephant",
        "POSTGRES_PASSWORD": "peanut",
        "POSTGRES_DB": "tasks",
    }


def test_env_example_has_every_setting_and_no_other() -> None:
    known = {name.upper() for name in Settings.model_fields}
    known |= set(re.findall(r"\$\{([A-Z_]+)", COMPOSE_FILE))
    assert set(_assignments(EXAMPLE)) == known


def test_env_example_shows_defaults_and_sets_nothing() -> None:
    assert not re.findall(r"^[^#\n]", EXAMPLE, re.MULTILINE)
    shown = _assignments(EXAMPLE)
    for name, field in Settings.model_fields.items():
        if field.default and not field.default_factory:
            assert shown[name.upper()] == str(field.default), name
    for name, default in re.findall(r"\$\{([A-Z_]+):-(\w+)\}", COMPOSE_FILE):
        assert shown[name] == default


class Compose(Stack):
    """The stack in containers, from a copy of the project; named so that it meets no other."""

    def __init__(self, folder: Path) -> None:
        # Not Stack's own: it starts processes, and this one containers.
        self.folder = folder
        self.project = f"tasks-api-test-{uuid.uuid4().hex[:8]}"
        self.ports = {name: free_port() for name in PORTS}
        self.port = self.ports["API_PORT"]
        files = self._command("git", "ls-files", "-z", "-co", "--exclude-standard", cwd=ROOT)
        for name in filter(None, files.split("\0")):
            if (ROOT / name).exists():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)

    def compose(self, *arguments: str) -> str:
        """Run `docker compose` to its end and return what it printed."""
        return self._command("docker", "compose", *arguments, cwd=self.folder)

    def up(self, *profile: str) -> None:
        """Start everything and wait until it works."""
        self.compose(*profile, "up", "--detach", "--wait", "--quiet-pull")

    def container(self, service: str) -> str:
        """Return the id of a service's container, which may have ended."""
        return self.compose("ps", "--all", "--quiet", service).strip()

    def kill_and_start(self, container: str) -> None:
        """Kill a container and start it again after a while, as an operator would.

        `restart: unless-stopped` does not: to the engine a `docker kill` is a wish.
        """
        self._command("docker", "kill", container, cwd=self.folder)
        threading.Event().wait(DOWN_SECONDS)
        self._command("docker", "start", container, cwd=self.folder)

    def get(self, setting: str, path: str, **options: Any) -> httpx.Response:
        """Get a page from the port that a setting publishes."""
        return httpx.get(f"http://localhost:{self.ports[setting]}{path}", timeout=10, **options)

    def query(self, sql: str, *parameters: object) -> list[tuple[object, ...]]:
        """Return the rows of a query without parameters, every value a text."""
        assert not parameters
        psql = ["psql", "--username=tasks", "--csv", "--tuples-only", "--command", sql]
        rows = self.compose("exec", "-T", "postgres", *psql).splitlines()
        return [tuple(row.split(",")) for row in rows]

    def close(self) -> None:
        """Remove all that was made, volumes and images included."""
        self.compose("--profile", "*", "down", "--volumes", "--rmi", "local")

    def _command(self, *command: str, cwd: Path) -> str:
        environment = {name: str(port) for name, port in self.ports.items()}
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**_without_settings(), "COMPOSE_PROJECT_NAME": self.project, **environment},
            capture_output=True,
            text=True,
            timeout=570,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def compose(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    made = Compose(tmp_path_factory.mktemp("project"))
    try:
        made.up()
        yield made
    finally:
        print(made.compose("logs", "--no-color", "--tail", "200"))
        made.close()


@pytest.mark.timeout(600)
class TestInContainers:
    """Minutes long, and it needs an engine: hence only where it is asked for."""

    __test__ = os.environ.get("TESTS_COMPOSE") == "1"

    def test_the_seeds_examples_answer(self, compose: Compose) -> None:
        message = compose.post("/tasks/", {"content": "Hello World"})
        slow = compose.post("/tasks/slow?duration=3")
        listed = compose.get("API_PORT", "/tasks/").json()
        assert {"task_id": slow, "status": "ACTIVE"} in listed["tasks"]
        assert compose.state(message, wait=20)["status"] == "SUCCESS"
        assert compose.state(slow, wait=20)["result"] == {
            "message": "Task completed after 3 seconds"
        }
        contents = [
            row["content"] for row in compose.get("API_PORT", "/messages/").json()["messages"]
        ]
        assert contents == ["Hello World"]

    def test_every_page_answers(self, compose: Compose) -> None:
        worker = compose.container("worker")[:12]
        assert f"@{worker}" in compose.get("FLOWER_PORT", "/workers").text
        assert compose.get("RABBITMQ_UI_PORT", "/").status_code == 200
        queues = compose.get("RABBITMQ_UI_PORT", "/api/queues", auth=("guest", "guest")).json()
        assert "tasks" in {queue["name"] for queue in queues}
        links = compose.get("API_PORT", "/").json()
        assert httpx.get(links["flower"], timeout=10).status_code == 200

    def test_troubleshooting_commands_do_what_they_say(self, compose: Compose) -> None:
        assert "(healthy)" in compose.compose("ps", "worker")
        before = compose.container("worker")
        compose.compose("restart", "worker")
        eventually(lambda: "(healthy)" in compose.compose("ps", "worker"), 60, "it is back")
        assert compose.compose("logs", "worker").count(" ready.") >= 2
        with (compose.folder / "backend" / "tasks" / "slow.py").open("a") as code:
            code.write("\n# changed\n")
        compose.compose("up", "--detach", "--build", "worker")
        assert compose.container("worker") != before
        eventually(lambda: "(healthy)" in compose.compose("ps", "worker"), 60, "it is back")
        module = "/opt/venv/lib/python3.13/site-packages/backend/tasks/slow.py"
        assert "# changed" in compose.compose("exec", "-T", "worker", "cat", module)

    def test_a_worker_that_is_killed_loses_no_long_task(self, compose: Compose) -> None:
        task_id = compose.post("/tasks/slow?duration=10")
        eventually(lambda: compose.state(task_id)["status"] == "STARTED", 10, "it has started")
        compose.kill_and_start(compose.container("worker"))
        assert compose.state(task_id, wait=60)["status"] == "SUCCESS"

    @pytest.mark.parametrize("service", ["api", "worker", "rabbitmq", "postgres"])
    def test_each_accepted_message_is_written_once(self, compose: Compose, service: str) -> None:
        container = compose.container(service)
        posting = Posting(compose, MESSAGES).start()
        eventually(lambda: len(posting.accepted) >= MESSAGES / 4, 60, "a quarter is accepted")
        before = len(posting.accepted)
        compose.kill_and_start(container)
        posting.finish(RECOVERY_SECONDS)
        accepted = time.monotonic()
        eventually(lambda: compose.unfinished() == 0, RECOVERY_SECONDS, "every task has ended")
        print(
            f"{service}: killed after {before} of {MESSAGES},"
            f" {len(posting.unanswered)} tries without a 202,"
            f" all ended {time.monotonic() - accepted:.1f} s after the last 202"
        )

        states = {row[0]: row[1] for row in compose.query("SELECT id, state FROM tasks")}
        written = Counter(row[0] for row in compose.query("SELECT task_id FROM messages"))
        ended = Counter(states.get(task_id) for task_id in posting.accepted)
        assert ended == {"SUCCESS": MESSAGES}
        assert {written[task_id] for task_id in posting.accepted} == {1}
        assert set(written.values()) == {1}
        assert compose.query("SELECT * FROM outbox") == []

    def test_down_and_up_keep_everything(self, compose: Compose) -> None:
        waiting = compose.post("/tasks/slow?duration=20")
        eventually(lambda: compose.state(waiting)["status"] == "STARTED", 10, "it has started")
        before = compose.get("API_PORT", "/messages/?limit=1000").json()
        compose.compose("down")
        compose.up()
        assert compose.get("API_PORT", "/messages/?limit=1000").json() == before
        assert compose.state(waiting, wait=60)["status"] == "SUCCESS"

    def test_env_files_take_effect(self, compose: Compose) -> None:
        shutil.copy(compose.folder / ".env.example", compose.folder / ".env")
        (compose.folder / "backend" / ".env").write_text(
            "CELERY_RESULT_BACKEND=redis://redis:6379/0\nLOG_LEVEL=DEBUG\n"
        )
        compose.up("--profile", "redis")
        task_id = compose.post("/tasks/", {"content": "to Redis"})
        assert compose.state(task_id, wait=20)["status"] == "SUCCESS"
        kept = f"celery-task-meta-{task_id}"
        eventually(
            lambda: kept in compose.compose("exec", "-T", "redis", "redis-cli", "keys", "*"),
            10,
            "Redis has the result",
        )
        (compose.folder / ".env").write_text("LOG_LEVEL=ERROR\n")  # beats backend/.env
        compose.up("--profile", "redis")
        given = compose.compose("exec", "-T", "worker", "env").splitlines()
        assert "LOG_LEVEL=ERROR" in given
        assert "CELERY_RESULT_BACKEND=redis://redis:6379/0" in given
