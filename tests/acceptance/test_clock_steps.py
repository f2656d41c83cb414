"""PostgreSQL's clock is set, or processes are suspended: no task fails or is late because of it."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.stack import Stack
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.servers import Postgres, RabbitMQ

MINUTE = 60.0
HOUR = 3600.0
LONGER_THAN_A_LEASE = 12.0


@pytest.fixture
def stack(postgres_with_clock: Postgres, rabbitmq: RabbitMQ, tmp_path: Path) -> Iterator[Stack]:
    """Give the service with the tests' own tasks, on a PostgreSQL whose clock can be set."""
    url = postgres_with_clock.create_database()
    with Stack(url, rabbitmq.url, tmp_path, module="tests.support.service") as made:
        yield made


def start_task_with_one_attempt(stack: Stack, go: Path) -> str:
    """Return the id of a running task that ends with success when the file `go` exists."""
    task_id = stack.post("/tasks/wait", {"text": str(go)})
    eventually(lambda: stack.state(task_id)["status"] == "STARTED", 20, "the task has started")
    stack.query("UPDATE tasks SET max_attempts = 1 WHERE id = %s RETURNING 1", task_id)
    return task_id


def see_renewals(stack: Stack, count: int) -> None:
    """Wait until the only worker has renewed its lease this often."""
    for _ in range(count):
        before = stack.query("SELECT renewed_at FROM workers")
        eventually(
            lambda before=before: before != stack.query("SELECT renewed_at FROM workers"),  # type: ignore[misc]  # mypy cannot infer a lambda's default
            20,
            "the lease is renewed",
        )


def set_back(stack: Stack, postgres: Postgres) -> None:
    """After the reconciler has read the clock, set it back by the minute that it is ahead."""
    seen = "SELECT latest > clock_timestamp() - interval '5 s' FROM clock"
    eventually(lambda: stack.scalar(seen), 20, "the reconciler has read the clock")
    postgres.step_clock(0)


def test_a_running_task_survives_every_step_of_the_clock(
    stack: Stack, postgres_with_clock: Postgres, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    stack.start("api")
    stack.start("worker")
    task_id = start_task_with_one_attempt(stack, go)
    for ahead in (MINUTE, 0, HOUR, 0):
        postgres_with_clock.step_clock(ahead)
        see_renewals(stack, 4)
        assert stack.state(task_id)["status"] == "STARTED", ahead
        message = stack.post("/tasks/", {"content": "posted after a step"})
        assert stack.state(message, wait=10)["status"] == "SUCCESS", ahead
    go.touch()
    assert stack.state(task_id, wait=10)["status"] == "SUCCESS"
    assert stack.attempt(task_id) == 1


def test_a_retry_is_on_time_after_the_clock_was_set_back(
    stack: Stack, postgres_with_clock: Postgres
) -> None:
    postgres_with_clock.step_clock(MINUTE)
    stack.start("api")
    stack.start("worker")
    task_id = stack.post("/tasks/succeed_at_second_attempt", {})
    waits = "SELECT count(*) FROM tasks WHERE state = 'RETRY'"
    eventually(lambda: stack.scalar(waits), 20, "the task waits for its second attempt")
    set_back(stack, postgres_with_clock)
    assert stack.state(task_id, wait=MINUTE / 2)["status"] == "SUCCESS"
    assert stack.attempt(task_id) == 2


def test_a_lost_message_is_republished_on_time_after_the_clock_was_set_back(
    stack: Stack, postgres_with_clock: Postgres, rabbitmq: RabbitMQ
) -> None:
    postgres_with_clock.step_clock(MINUTE)
    stack.start("api")
    task_id = stack.post("/tasks/", {"content": "lost"})
    published = "SELECT count(*) FROM outbox WHERE published_at IS NOT NULL"
    eventually(lambda: stack.scalar(published), 20, "the message is published")
    eventually(lambda: sum(rabbitmq.queues().values()), 20, "the message is in the queue")
    rabbitmq.delete_all_queues()
    set_back(stack, postgres_with_clock)
    stack.start("worker")
    assert stack.state(task_id, wait=MINUTE / 2)["status"] == "SUCCESS"


@pytest.mark.parametrize("step", [HOUR, -HOUR])
def test_a_dead_workers_task_runs_again_within_a_minute_despite_clock_steps(
    stack: Stack, postgres_with_clock: Postgres, tmp_path: Path, step: float
) -> None:
    go = tmp_path / "go"
    stack.start("api")
    stack.start("worker", name="first")
    task_id = stack.post("/tasks/wait", {"text": str(go)})
    eventually(lambda: stack.state(task_id)["status"] == "STARTED", 20, "the task has started")
    stack.kill("first")
    postgres_with_clock.step_clock(step)
    stack.start("worker", name="second")
    go.touch()
    assert stack.state(task_id, wait=MINUTE)["status"] == "SUCCESS"
    assert stack.attempt(task_id) == 2


@pytest.mark.parametrize("frozen", [("relay",), ("relay", "worker")])
def test_suspending_all_processes_beyond_a_lease_costs_a_running_task_no_attempt(
    stack: Stack, tmp_path: Path, frozen: tuple[str, ...]
) -> None:
    go = tmp_path / "go"
    stack.start("api", "--no-relay")
    stack.start("relay")
    stack.start("worker")
    task_id = start_task_with_one_attempt(stack, go)
    # The reconciler has seen the lease.
    see_renewals(stack, 3)
    pids = [pid for name in frozen for pid in (stack[name].popen.pid, *stack[name].children())]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    threading.Event().wait(LONGER_THAN_A_LEASE)  # the length of the pause is tested
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    see_renewals(stack, 4)
    assert stack.state(task_id)["status"] == "STARTED"
    go.touch()
    assert stack.state(task_id, wait=10)["status"] == "SUCCESS"
    assert stack.attempt(task_id) == 1
