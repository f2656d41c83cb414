"""Errors of every kind in a task: each ends only its own attempt, with its reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.support.stack import Stack

MINUTE = 60.0

# The text of an error with megabytes of `x`.
LARGE = "ValueError: " + "x" * 1988

# The exception (tests/support/errors.py), and the error in the ledger.
REASONS = {
    "MemoryError": "MemoryError: Unable to allocate 8 EiB",
    "SystemExit": "SystemExit: 2",
    "KeyboardInterrupt": "KeyboardInterrupt",
    "GeneratorExit": "GeneratorExit",
    "asyncio.CancelledError": "CancelledError",
    "celery.Ignore": "Ignore: mine",
    "celery.Reject": "Reject: ('mine', False)",
    "celery.Retry": "Retry: mine",
    "celery.TaskRevokedError": "TaskRevokedError: mine",
    "celery.SoftTimeLimitExceeded": "SoftTimeLimitExceeded: SoftTimeLimitExceeded('mine',)",
    "celery.TimeLimitExceeded": "TimeLimitExceeded, whose text cannot be read",
    "celery.WorkerShutdown": "WorkerShutdown: mine",
    "celery.WorkerTerminate": "WorkerTerminate: mine",
    "billiard.Terminated": "Terminated: mine",
    "an unpicklable error": "Unpicklable: mine",
    "an error without text": "ValueError",
    "an error whose text raises": "Unreadable, whose text cannot be read",
    "an error whose text is no text": "NoText, whose text cannot be read",
    "an error with 30 MB of text": LARGE,
    "a group of errors": "BaseExceptionGroup: mine (1 sub-exception)",
    "RecursionError": "RecursionError: maximum recursion depth exceeded",
}


@pytest.mark.parametrize("one_commit", [False, True], ids=["ordinary", "one commit"])
def test_any_exception_in_a_task_ends_its_attempt_with_a_reason_and_the_worker_continues(
    odd_stack: Stack, *, one_commit: bool
) -> None:
    stack = odd_stack
    stack.start("api")
    worker = stack.start("worker", environment={"WORKER_CONCURRENCY": "2"})
    eventually(lambda: len(worker.children()) == 3, 20, "all pool processes run")
    pool = worker.children()
    name = "raise_in_one_commit" if one_commit else "raise_anything"
    ids = {kind: stack.post(f"/tasks/{name}", {"text": kind}) for kind in REASONS}
    states: dict[str, Any] = {kind: stack.state(ids[kind], wait=MINUTE) for kind in REASONS}
    assert {kind: state["status"] for kind, state in states.items()} == dict.fromkeys(
        REASONS, "FAILURE"
    )
    said = {kind: state["result"]["error"] for kind, state in states.items()}
    wrong = {kind: text for kind, text in said.items() if not text.startswith(REASONS[kind])}
    assert wrong == {}
    assert worker.popen.poll() is None
    assert (
        stack.state(stack.post("/tasks/", {"content": "still there"}), wait=MINUTE)["status"]
        == "SUCCESS"
    )
    # Celery itself would end a pool process for some exceptions, such as SystemExit.
    assert worker.children() == pool


def test_sys_exit_in_a_task_is_retried_after_a_delay_like_any_error(odd_stack: Stack) -> None:
    stack = odd_stack
    stack.start("api")
    stack.start("worker")
    task_id = stack.post("/tasks/exit_at_first", {})
    assert stack.state(task_id, wait=MINUTE)["result"] == {"text": "attempt 2"}
    pause = (
        "SELECT task.started_at - first.finished_at >= interval '1 s' FROM tasks task"
        " JOIN task_attempts first ON first.task_id = task.id AND first.attempt = 1"
        " WHERE task.id = %s"
    )
    assert stack.scalar(pause, task_id)


def test_positional_arguments_reach_the_task(odd_stack: Stack) -> None:
    stack = odd_stack
    stack.start("api")
    stack.start("worker")
    for name in ("add_up", "add_up_in_one_commit"):
        task_id = stack.post(f"/tasks/{name}", [1, 2, 3])
        assert stack.state(task_id, wait=MINUTE)["result"] == 6
        item = {"name": name, "arguments": [4, 5]}
        answer = httpx.post(f"{stack.url}/tasks/batch", json=[item]).json()
        assert stack.state(answer["tasks"][0]["task_id"], wait=MINUTE)["result"] == 9


def test_an_error_text_of_megabytes_is_truncated_in_ledger_and_log(odd_stack: Stack) -> None:
    stack = odd_stack
    stack.start("api")
    worker = stack.start("worker", environment={"WORKER_CONCURRENCY": "1"})
    large = {"text": "an error with 30 MB of text"}
    for name, arguments, text in (
        ("raise_anything", large, LARGE),
        ("raise_in_one_commit", large, LARGE),
        ("refuse", {"text": "x" * 1_000_000}, "x" * 2000),
    ):
        state: Any = stack.state(stack.post(f"/tasks/{name}", arguments), wait=MINUTE)
        assert (state["status"], state["result"]["error"]) == ("FAILURE", text)
    assert stack.state(stack.post("/tasks/slow?duration=0"), wait=MINUTE)["status"] == "SUCCESS"
    assert max(map(len, worker.log.splitlines())) < 50_000
    assert worker.popen.poll() is None
