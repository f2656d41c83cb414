"""A task's writes are committed only with its success; no transaction waits for the broker."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import httpx

from tests.support.posting import Posting
from tests.support.stack import ROOT, Stack
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.support.servers import RabbitMQ

MINUTE = 60.0


def messages_of(stack: Stack, task_id: str) -> object:
    return stack.scalar("SELECT count(*) FROM messages WHERE task_id = %s", task_id)


def test_a_task_that_raises_leaves_no_effect_and_fails_after_its_attempts(odd_stack: Stack) -> None:
    odd_stack.start("api")
    odd_stack.start("worker")
    task_id = odd_stack.post("/tasks/fail", {"text": "no such luck"})
    state = odd_stack.state(task_id, wait=MINUTE)
    assert (state["status"], state["result"]) == ("FAILURE", {"error": "ValueError: no such luck"})
    assert odd_stack.attempt(task_id) == 2
    assert messages_of(odd_stack, task_id) == 0


def test_an_error_leads_to_another_attempt_after_a_delay(odd_stack: Stack) -> None:
    odd_stack.start("api")
    odd_stack.start("worker")
    task_id = odd_stack.post("/tasks/succeed_at_second_attempt", {})
    eventually(
        lambda: odd_stack.state(task_id)["status"] == "RETRY", 10, "the first attempt failed"
    )
    listed = httpx.get(f"{odd_stack.url}/tasks/").json()
    assert {"tasks": [{"task_id": task_id, "status": "SCHEDULED"}], "total": 1} == listed
    assert odd_stack.state(task_id, wait=MINUTE)["result"] == {"text": "attempt 2"}


def test_a_task_may_fail_without_retry_and_a_value_may_hold_any_text(odd_stack: Stack) -> None:
    odd_stack.start("api")
    odd_stack.start("worker")
    refused = odd_stack.post("/tasks/refuse", {"text": "never"})
    assert odd_stack.state(refused, wait=MINUTE)["result"] == {"error": "never"}
    assert odd_stack.attempt(refused) == 1
    odd_value = odd_stack.post("/tasks/return_the_unstorable", {})
    assert odd_stack.state(odd_value, wait=MINUTE)["result"] == {"text": "a\x00b"}


def test_no_transaction_stays_open_while_the_broker_hangs(stack: Stack, rabbitmq: RabbitMQ) -> None:
    stack.start("relay")
    stack.start("worker")
    stack.start("api", "--no-relay")
    rabbitmq.freeze()
    try:
        posting = Posting(stack, 50).start()
        posting.finish(MINUTE)
        httpx.get(f"{stack.url}/tasks/", timeout=10)
        # The relay has taken rows and waits for a confirm that does not arrive.
        eventually(
            lambda: stack.scalar("SELECT count(*) FROM outbox WHERE published_at IS NOT NULL"),
            10,
            "the relay has taken rows",
        )
        for _ in range(20):
            open_for_long = stack.scalar(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tasks-api'"
                " AND state LIKE 'idle in transaction%%'"
                " AND clock_timestamp() - state_change > interval '300 ms'"
            )
            assert open_for_long == 0
            httpx.get(f"{stack.url}/tasks/", timeout=10)
    finally:
        rabbitmq.thaw()
    eventually(lambda: stack.unfinished() == 0, MINUTE, "every task has ended")


def test_only_the_ledger_module_changes_the_ledger() -> None:
    """There are exceptions.

    repairs.py gives a task its next attempt, limits.py notes by which limit a task runs, running.py
    how far it is, locked.py how many attempts it has, purge.py deletes ended tasks, and
    tasks_submit is SQL that other programs call.
    """
    change = re.compile(r"\b(UPDATE tasks\b|INSERT INTO tasks\b|DELETE FROM tasks\b)")
    changing = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "backend").rglob("*.py")
        if change.search(path.read_text())
    }
    modules = ("ledger", "limits", "locked", "repairs", "running", "purge")
    allowed = {f"backend/db/{name}.py" for name in modules}
    assert changing == allowed | {"backend/db/migrations/versions/0013_tasks_submit.py"}
