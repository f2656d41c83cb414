"""The complete docker-compose.yml in containers, only on request.

`TESTS_COMPOSE=1 make test ARGS=tests/acceptance/test_containers.py` builds the image, starts the
stack with its own name and ports, kills each container in turn, and removes everything again.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support.compose import Compose
from tests.support.posting import Posting
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

MESSAGES = 300
RECOVERY_SECONDS = 120.0


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
    """Takes minutes and needs a container engine, so it runs only on request."""

    __test__ = os.environ.get("TESTS_COMPOSE") == "1"

    def test_the_examples_of_the_seed_work(self, compose: Compose) -> None:
        message = compose.post("/tasks/", {"content": "Hello World"})
        slow = compose.post("/tasks/slow?duration=3")
        active = {"task_id": slow, "status": "ACTIVE"}
        eventually(
            lambda: active in compose.get("API_PORT", "/tasks/").json()["tasks"],
            2.5,
            "the slow task is listed as active",
        )
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

    def test_the_troubleshooting_commands_of_the_seed_work(self, compose: Compose) -> None:
        assert "(healthy)" in compose.compose("ps", "worker")
        before = compose.container("worker")
        compose.compose("restart", "worker")
        eventually(
            lambda: "(healthy)" in compose.compose("ps", "worker"),
            60,
            "the worker is healthy again",
        )
        assert compose.compose("logs", "worker").count(" ready.") >= 2
        with (compose.folder / "backend" / "tasks" / "slow.py").open("a") as code:
            code.write("\n# changed\n")
        compose.compose("up", "--detach", "--build", "worker")
        assert compose.container("worker") != before
        eventually(
            lambda: "(healthy)" in compose.compose("ps", "worker"),
            60,
            "the worker is healthy again",
        )
        module = "/opt/venv/lib/python3.13/site-packages/backend/tasks/slow.py"
        assert "# changed" in compose.compose("exec", "-T", "worker", "cat", module)

    def test_a_killed_worker_loses_no_long_task(self, compose: Compose) -> None:
        task_id = compose.post("/tasks/slow?duration=10")
        eventually(
            lambda: compose.state(task_id)["status"] == "STARTED", 10, "the task has started"
        )
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
        eventually(
            lambda: compose.state(waiting)["status"] == "STARTED", 10, "the task has started"
        )
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
        (compose.folder / ".env").write_text("LOG_LEVEL=ERROR\n")  # overrides backend/.env
        compose.up("--profile", "redis")
        given = compose.compose("exec", "-T", "worker", "env").splitlines()
        assert "LOG_LEVEL=ERROR" in given
        assert "CELERY_RESULT_BACKEND=redis://redis:6379/0" in given
