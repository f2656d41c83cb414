"""Workers recover from a broker that accepts no messages, and from a hung event loop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support.proxy import Proxy
from tests.support.stack import ROOT
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.servers import RabbitMQ
    from tests.support.stack import Stack

pytestmark = pytest.mark.timeout(180)

MINUTE = 60.0
# Number of checks without a tick, every 2 s, after which a worker ends.
SOON, LATER = "3", "6"
LONGER_THAN_A_HANG = 15.0  # seconds


def post_messages(stack: Stack, count: int) -> None:
    """Post message tasks, and return when all of them are in the broker."""
    for _ in range(count // 1000):
        tasks = [{"arguments": {"content": f"message {number}"}} for number in range(1000)]
        answer = httpx.post(f"{stack.url}/tasks/batch", json=tasks, timeout=30)
        assert answer.status_code == 202, answer.text
    unpublished = "SELECT count(*) FROM outbox WHERE published_at IS NULL"
    eventually(lambda: stack.scalar(unpublished) == 0, 2 * MINUTE, "all tasks are published")


def answers_inspect(stack: Stack) -> bool:
    """Return whether a worker answers Celery's `inspect ping`."""
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "backend", "inspect", "ping"],
        cwd=ROOT,
        env=stack.settings(),
        capture_output=True,
        timeout=MINUTE,
        check=False,
    )
    return done.returncode == 0


@pytest.mark.timeout(3600)
def test_a_worker_started_during_a_memory_alarm_works_then_and_afterwards(
    stack: Stack, rabbitmq: RabbitMQ, *, thorough: bool
) -> None:
    stack.start("api")
    for _ in range(20 if thorough else 1):
        post_messages(stack, 30_000 if thorough else 2_000)
        rabbitmq.set_alarm(True)
        try:
            worker = stack.start("worker")
            if thorough:
                threading.Event().wait(MINUTE)  # the length of the alarm is tested
            else:
                eventually(
                    lambda: stack.unfinished() == 0,
                    MINUTE,
                    "all short tasks have ended during the alarm",
                )
        finally:
            rabbitmq.set_alarm(False)
        eventually(lambda: stack.unfinished() == 0, 5 * MINUTE, "all tasks have ended")
        assert "Connection to broker lost" not in worker.log
        eventually(lambda: answers_inspect(stack), MINUTE, "the worker answers again")
        stack.stop("worker")


def test_a_worker_with_a_hung_event_loop_ends_and_its_tasks_run_elsewhere(
    odd_stack: Stack, tmp_path: Path
) -> None:
    hang, go = tmp_path / "hang", tmp_path / "go"
    odd_stack.start("api")
    environment = {"TESTS_HANG": str(hang), "TESTS_CHECKS": SOON}
    hanging = odd_stack.start("worker", name="hanging", environment=environment)
    task_id = odd_stack.post("/tasks/wait", {"text": str(go)})
    eventually(lambda: odd_stack.state(task_id)["status"] == "STARTED", 10, "the task has started")
    children = hanging.children()
    hang.touch()
    assert hanging.popen.wait(MINUTE) == 1
    assert not any(os.path.exists(f"/proc/{child}/exe") for child in children)  # noqa: PTH110 - a zombie has none to point to
    assert hanging.log.count("the event loop has hung for 6 s") == 1
    assert " < hang < " in hanging.log
    assert odd_stack.state(task_id)["status"] == "RETRY"
    go.touch()
    odd_stack.start("worker")
    assert odd_stack.state(task_id, wait=MINUTE)["status"] == "SUCCESS"
    row = odd_stack.query("SELECT attempt, max_attempts FROM tasks")
    assert row == [(2, 6)], "the task lost no attempt"


def test_neither_sigstop_nor_a_broker_outage_ends_a_worker(
    odd_stack: Stack, rabbitmq: RabbitMQ
) -> None:
    odd_stack.start("api")
    with Proxy("127.0.0.1", rabbitmq.port) as proxy:
        url = rabbitmq.url.replace(str(rabbitmq.port), str(proxy.port))
        environment = {"CELERY_BROKER_URL": url, "TESTS_CHECKS": LATER}
        worker = odd_stack.start("worker", environment=environment)
        # The length of each is tested.
        worker.popen.send_signal(signal.SIGSTOP)
        threading.Event().wait(LONGER_THAN_A_HANG)
        worker.popen.send_signal(signal.SIGCONT)
        proxy.refuse()
        threading.Event().wait(LONGER_THAN_A_HANG)
        proxy.accept()
        task_id = odd_stack.post("/tasks/slow?duration=0")
        assert odd_stack.state(task_id, wait=MINUTE)["status"] == "SUCCESS"
        assert worker.popen.poll() is None
        assert "the event loop has hung" not in worker.log
        odd_stack.stop("worker")
