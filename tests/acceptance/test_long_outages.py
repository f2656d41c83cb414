"""A long outage or a hang of PostgreSQL ends no task and keeps no process from stopping."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING

import psycopg2

from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.servers import Postgres
    from tests.support.stack import Stack

MINUTE = 60.0
LONGER_THAN_A_LEASE = 12.0


def started(stack: Stack, task_id: str) -> None:
    eventually(lambda: stack.state(task_id)["status"] == "STARTED", 10, "the task has started")


def test_an_outage_longer_than_a_lease_costs_a_running_task_no_attempt(
    odd_stack: Stack, postgres: Postgres, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    odd_stack.start("api")
    odd_stack.start("worker")
    reporting = odd_stack.post("/tasks/slow?duration=25")
    waiting = odd_stack.post("/tasks/wait", {"text": str(go)})
    started(odd_stack, reporting)
    started(odd_stack, waiting)
    postgres.stop()
    threading.Event().wait(LONGER_THAN_A_LEASE)  # the length of the outage is tested
    postgres.start()
    go.touch()
    eventually(lambda: odd_stack.unfinished() == 0, MINUTE, "both tasks have ended")
    rows = odd_stack.query("SELECT state, attempt FROM tasks")
    assert rows == [("SUCCESS", 1), ("SUCCESS", 1)]


def test_a_worker_stops_on_sigterm_while_postgresql_hangs(
    odd_stack: Stack, postgres: Postgres, tmp_path: Path
) -> None:
    odd_stack.start("api")
    worker = odd_stack.start("worker")
    task_id = odd_stack.post("/tasks/wait", {"text": str(tmp_path / "never")})
    started(odd_stack, task_id)
    children = worker.children()
    postgres.freeze()
    try:
        odd_stack.stop("worker", timeout=10)
    finally:
        postgres.thaw()
    assert not any(os.path.exists(f"/proc/{child}/exe") for child in children)  # noqa: PTH110


def test_a_dead_workers_open_transaction_does_not_block_the_next_attempt(
    odd_stack: Stack, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    odd_stack.start("api")
    frozen = odd_stack.start("worker", name="frozen")
    task_id = odd_stack.post("/tasks/write_and_wait", {"text": str(go)})
    started(odd_stack, task_id)
    # Its transaction has written the task's message and stays open while it is frozen.
    for pid in (frozen.popen.pid, *frozen.children()):
        os.kill(pid, signal.SIGSTOP)
    odd_stack.start("worker", name="successor")
    eventually(lambda: odd_stack.attempt(task_id) == 2, MINUTE, "the task has its next attempt")
    go.touch()
    assert odd_stack.state(task_id, wait=MINUTE)["result"] == {"text": "attempt 2"}


def test_a_worker_without_a_lease_claims_nothing(odd_stack: Stack) -> None:
    odd_stack.start("api")
    odd_stack.start("worker")
    connection = psycopg2.connect(odd_stack.database_url.replace("+psycopg2", ""))
    with connection.cursor() as cursor:
        # Delete its lease, as a reconciler does. The open transaction prevents a new one.
        cursor.execute("DELETE FROM workers RETURNING name")
        (name,) = cursor.fetchone() or ()
        connection.commit()
        cursor.execute(
            "INSERT INTO workers (name, renewed_at, expires_at, holds)"
            " VALUES (%s, now(), now(), '{}')",
            [name],
        )
        task_id = odd_stack.post("/tasks/slow?duration=0")
        eventually(lambda: "lease" in odd_stack["worker"].log, 15, "the renewal has failed")
        state, attempt = odd_stack.query("SELECT state, attempt FROM tasks")[0]
    connection.rollback()
    connection.close()
    assert (state, attempt) == ("PENDING", 1)
    assert odd_stack.state(task_id, wait=MINUTE)["status"] == "SUCCESS"
    assert odd_stack.attempt(task_id) == 1


def test_a_slow_statement_in_a_short_task_fails_only_that_task(odd_stack: Stack) -> None:
    odd_stack.start("api")
    good = [odd_stack.post("/tasks/", {"content": f"message {n}"}) for n in range(5)]
    bad = odd_stack.post("/tasks/wait_for_a_lock", {})
    connection = psycopg2.connect(odd_stack.database_url.replace("+psycopg2", ""))
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(1)")
        odd_stack.start("worker", environment={"WORKER_CONCURRENCY": "1"})
        assert {"SUCCESS"} == {odd_stack.state(task_id, MINUTE)["status"] for task_id in good}
        state = odd_stack.state(bad, MINUTE)
    connection.close()
    assert state["result"] == {"error": "Database error: LockNotAvailable"}
