"""Old tasks are deleted: by the running service (RETENTION_DAYS), and by `tasks-api prune`."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support.ports import free_port
from tests.support.stack import ROOT, Stack, serving
from tests.support.submissions import post, serves
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.support.servers import Postgres, RabbitMQ

pytestmark = pytest.mark.usefixtures("closing_client")

MINUTE = 60.0
MANY = 100_000


@pytest.fixture(scope="module")
def service(
    postgres_server: Postgres, rabbitmq_server: RabbitMQ, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """Give one running service, which keeps its tasks, to the tests of this file."""
    folder = tmp_path_factory.mktemp("purge")
    with serving(postgres_server, rabbitmq_server, folder, "api", "worker") as stack:
        yield stack


def ended(service: Stack, content: str, days: int) -> str:
    """Post a message task with its content as key; return its id when it ended `days` ago."""
    task_id: str = post(service.url, content, content).json()["task_id"]
    assert service.state(task_id, wait=MINUTE)["status"] == "SUCCESS"
    move = "UPDATE tasks SET finished_at = finished_at - make_interval(days => %s) WHERE id = %s"
    service.query(f"{move} RETURNING 1", days, task_id)
    return task_id


def code(service: Stack, task_id: str, wait: int = 0) -> int:
    """Return the status code of GET /tasks/{id}."""
    return httpx.get(f"{service.url}/tasks/{task_id}?wait={wait}", timeout=wait + 10).status_code


def prune(service: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `tasks-api prune` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "backend", "prune", *arguments],
        cwd=ROOT,
        env=service.settings(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def contents(service: Stack) -> Sequence[str]:
    return [row[0] for row in service.query("SELECT content FROM messages ORDER BY id")]


def test_the_running_service_deletes_old_tasks_and_a_key_still_gives_its_first_answer(
    service: Stack,
) -> None:
    old, young = ended(service, "old", 2), ended(service, "young", 0)
    port = free_port()
    changed = {"API_PORT": str(port), "API_WORKERS": "2", "RETENTION_DAYS": "1"}
    deleting = service.start("api", name="deleting", environment=changed)
    eventually(lambda: serves(f"http://127.0.0.1:{port}"), 30, "the second API serves")
    eventually(lambda: code(service, old) == 404, 30, "the old task is deleted")
    assert code(service, old, wait=30) == 404
    assert (code(service, young), contents(service)) == (200, ["old", "young"])
    again = post(service.url, "old", "old")
    assert (again.status_code, again.json()["task_id"]) == (202, old)
    assert (code(service, old), contents(service)) == (404, ["old", "young"])
    eventually(lambda: "purged" in deleting.log, 10, "the pass is logged")
    assert deleting.log.count("purged 1 tasks that ended more than 1 days ago") == 1
    service.stop("deleting")


def test_prune_counts_or_deletes_old_tasks(service: Stack) -> None:
    old, young = ended(service, "prune-old", 31), ended(service, "prune-young", 29)
    counted = prune(service, "--older-than", "30d", "--dry-run")
    assert (counted.returncode, counted.stdout) == (0, "tasks to delete: 1\n"), counted
    assert code(service, old) == 200
    deleted = prune(service, "--older-than", "720h")
    assert (deleted.returncode, deleted.stdout) == (0, "tasks deleted: 1\n"), deleted
    assert (code(service, old), code(service, young)) == (404, 200)
    assert prune(service, "--older-than", "30d").stdout == "tasks deleted: 0\n"
    assert contents(service)[-2:] == ["prune-old", "prune-young"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_prune_ends_after_a_batch_when_it_is_stopped(
    service: Stack, number: signal.Signals
) -> None:
    service.query(
        "INSERT INTO tasks (id, name, args, state, max_attempts, finished_at) SELECT"
        " gen_random_uuid(), 'pruned', '{}', 'SUCCESS', 1, now() - interval '40 days'"
        " FROM generate_series(1, %s) RETURNING 1",
        MANY,
    )
    left = "SELECT count(*) FROM tasks WHERE name = 'pruned'"
    process = service.launch("prune", "--older-than", "30d")
    eventually(lambda: service.scalar(left) != MANY, 30, "it has begun")
    assert service.stop("prune", number) == 1
    found = re.fullmatch(
        r"tasks deleted: (\d+)\ntasks-api: Stopped before the end; run it again for the rest\.\n",
        process.log,
    )
    assert found, process.log
    assert 0 < int(found[1]) == MANY - int(str(service.scalar(left))) < MANY
    service.query("DELETE FROM tasks WHERE name = 'pruned' RETURNING 1")


def test_prune_reports_a_postgresql_that_is_away_in_words(service: Stack) -> None:
    away = service.environment | {"DATABASE_URL": "postgresql+psycopg2://nobody:x@127.0.0.1:9/x"}
    process = service.launch("prune", "--older-than", "30d", environment=away)
    assert process.popen.wait(30) == 1
    assert "tasks deleted: 0\ntasks-api: The task store cannot be reached" in process.log
    assert "Traceback" not in process.log


@pytest.mark.parametrize("arguments", [[], ["--older-than", "30"], ["--older-than", "0d"]])
def test_prune_needs_an_age(service: Stack, arguments: Sequence[str]) -> None:
    refused = prune(service, *arguments)
    assert refused.returncode == 2
    assert "--older-than" in refused.stderr
    assert ("must be days or hours, such as 30d or 12h" in refused.stderr) == bool(arguments)
