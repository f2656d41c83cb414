"""What happens to the process of a cancelled task, and to what it has written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.support.servers import RabbitMQ
    from tests.support.stack import Stack

MINUTE = 60.0


def begin(stack: Stack, name: str, text: str) -> str:
    """Post a task of the tests; return its id when it runs."""
    task_id = stack.post(f"/tasks/{name}", {"text": text})
    eventually(lambda: stack.state(task_id)["status"] == "STARTED", 20, "the task runs")
    return task_id


def cancel(stack: Stack, task_id: str) -> None:
    """Cancel a task."""
    answer = httpx.post(f"{stack.url}/tasks/{task_id}/cancel", timeout=10)
    assert (answer.status_code, answer.json()) == (200, revoked(task_id))


def revoked(task_id: str) -> dict[str, object]:
    """Return the answer about a cancelled task."""
    return {"task_id": task_id, "status": "REVOKED", "result": {"error": "Cancelled"}}


def has_ended(pid: int) -> bool:
    """Return whether a process has ended, also if its parent has not collected it."""
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(") ")[2].startswith("Z")


def test_the_process_of_a_cancelled_task_is_killed_and_no_other_is_affected(
    odd_stack: Stack, tmp_path: Path
) -> None:
    odd_stack.start("api")
    worker = odd_stack.start("worker")
    go = tmp_path / "go"
    # Without progress: a report of progress would end the attempt earlier.
    other, cancelled = (begin(odd_stack, "wait", str(go)) for _ in range(2))
    before = set(worker.children())
    cancel(odd_stack, cancelled)
    eventually(lambda: len(before - set(worker.children())) == 1, 5, "its process is gone")
    go.touch()
    assert odd_stack.state(other, wait=MINUTE)["status"] == "SUCCESS"
    assert odd_stack.attempt(other) == 1
    assert odd_stack.state(cancelled) == revoked(cancelled)


@pytest.mark.parametrize("ends", [False, True], ids=["it is killed", "its function ends"])
def test_what_a_cancelled_task_has_written_is_rolled_back(
    odd_stack: Stack, tmp_path: Path, *, ends: bool
) -> None:
    odd_stack.start("api")
    worker = odd_stack.start("worker")
    task_id = begin(odd_stack, "write_and_wait", str(tmp_path / "go"))
    cancel(odd_stack, task_id)
    if ends:
        (tmp_path / "go").touch()
    over = "outcome dropped" if ends else "killing an attempt"
    eventually(lambda: over in worker.log, 10, "the attempt is over")
    assert odd_stack.query("SELECT content FROM messages") == []
    assert odd_stack.state(task_id) == revoked(task_id)


def test_a_cancelled_attempt_is_killed_while_the_broker_is_away(
    odd_stack: Stack, rabbitmq: RabbitMQ, tmp_path: Path
) -> None:
    odd_stack.start("api")
    worker = odd_stack.start("worker")
    task_id = begin(odd_stack, "wait", str(tmp_path / "never"))
    before = set(worker.children())
    rabbitmq.stop()
    eventually(lambda: "the broker" in worker.log, 20, "the worker has noticed")
    cancel(odd_stack, task_id)
    # Its parent collects it later.
    eventually(lambda: any(map(has_ended, before)), 5, "its process has ended")
