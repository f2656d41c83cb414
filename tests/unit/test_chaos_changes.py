"""The checker of the chaos suite knows which states a cancel or a retry explains."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.chaos.checker import check
from tests.chaos.ending import Ending, Message
from tests.chaos.history import Answer, Happened, History
from tests.support.chaos_runs import ONE, SLOW, TWO, correct_run, done, read

if TYPE_CHECKING:
    from collections.abc import Callable


def changed(kind: str, task_id: str, sent: float, state: str, **more: Any) -> Answer:
    """Return a cancel's or a retry's answer; a cancel's has the state and the result."""
    result = {"error": "Cancelled"} if state == "REVOKED" else None
    body = json.dumps({"task_id": task_id, "status": state, "result": result})
    path, status = f"/tasks/{task_id}/{kind}", 200 if kind == "cancel" else 202
    answer = Answer(sent, sent + 0.1, 0, "POST", path, status, body, None, [(kind, task_id)])
    return replace(answer, **more)


def cancelled_run() -> tuple[History, Ending]:
    """Return a correct run in which TWO was cancelled."""
    history, ending = correct_run()
    history.answers.append(changed("cancel", TWO, 4, "REVOKED"))
    ending.tasks[1] = done(TWO, "b", state="REVOKED", result=None, error="Cancelled")
    ending.messages.pop(1)
    ending.message_totals[:] = [1, 1]
    return history, ending


def retried_run() -> tuple[History, Ending]:
    """Return a correct run in which TWO was cancelled, and then retried with success."""
    history, ending = correct_run()
    history.answers += [
        changed("cancel", TWO, 4, "REVOKED"),
        changed("retry", TWO, 5, "RETRY"),
        read(TWO, "STARTED", 6),
        read(TWO, "SUCCESS", 7, {"content": "b"}),
    ]
    ending.tasks[1] = done(TWO, "b", attempt=2)
    return history, ending


def test_a_run_with_a_cancel_and_a_retry_has_no_findings() -> None:
    assert check(*cancelled_run()).findings == []
    assert check(*retried_run()).findings == []


@pytest.mark.parametrize("status", [503, None])
def test_a_cancel_without_an_answer_may_have_revoked_the_task_or_not(status: int | None) -> None:
    for history, ending in (correct_run(), cancelled_run()):
        history.happened.append(Happened(4, 5, "kill_api", "api-0"))
        history.answers.append(changed("cancel", TWO, 4, "", status=status, body="ConnectError"))
        assert check(history, ending).findings == []


WRONG_CHANGES: dict[str, tuple[str, Callable[[History, Ending], object]]] = {
    "a task that nobody has cancelled is REVOKED": (
        "other",
        lambda run, _: run.answers.remove(changed("cancel", TWO, 4, "REVOKED")),
    ),
    "a refused cancel has revoked a task": (
        "other",
        lambda run, _: run.answers.__setitem__(-1, changed("cancel", TWO, 4, "", status=409)),
    ),
    "a cancelled task was revoked for another reason": (
        "other",
        lambda _, end: end.tasks.__setitem__(1, end.tasks[1]._replace(error="Expired")),
    ),
    "a cancelled task has left a message": (
        "other",
        lambda _, end: end.messages.append(Message(2, TWO, "b")),
    ),
    "a cancelled task has succeeded all the same": (
        "backwards",
        lambda _, end: end.tasks.__setitem__(1, done(TWO, "b")),
    ),
    "a cancelled task has run after its end": (
        "backwards",
        lambda run, _: run.answers.append(read(TWO, "STARTED", 5)),
    ),
    "404 for a cancel": (
        "lost",
        lambda run, _: run.answers.append(changed("cancel", ONE, 5, "", status=404)),
    ),
    "500 for a cancel": (
        "other",
        lambda run, _: run.answers.append(changed("cancel", ONE, 5, "", status=500)),
    ),
    "a task went back after SUCCESS, although a retry of it was accepted": (
        "backwards",
        lambda run, _: run.answers.extend(
            [changed("retry", ONE, 10, "RETRY"), read(ONE, "STARTED", 11)]
        ),
    ),
    "a retry did not lead to another attempt": (
        "other",
        lambda run, _: run.answers.append(changed("retry", ONE, 10, "RETRY")),
    ),
    "a task went back before it was retried": (
        "backwards",
        lambda run, _: run.answers.extend(
            [read(TWO, "STARTED", 5), changed("retry", TWO, 6, "RETRY")]
        ),
    ),
    "a retried task was PENDING": (
        "backwards",
        lambda run, _: run.answers.extend(
            [changed("retry", TWO, 6, "RETRY"), read(TWO, "PENDING", 7)]
        ),
    ),
}


@pytest.mark.parametrize("case", WRONG_CHANGES)
def test_the_checker_finds_each_error_after_a_cancel(case: str) -> None:
    kind, change = WRONG_CHANGES[case]
    history, ending = cancelled_run()
    change(history, ending)
    assert getattr(check(history, ending), kind) != []


def test_a_request_for_several_tasks_counts_for_those_that_it_has_changed() -> None:
    rows = [{"task_id": TWO, "status": "REVOKED", "changed": True}]
    rows.append({"task_id": SLOW, "status": "SUCCESS", "changed": False})
    history, ending = cancelled_run()
    history.answers[-1] = Answer(
        *(4, 4.1, 0, "POST", "/tasks/cancel", 200),
        body=json.dumps({"tasks": rows}),
        asked=[("cancel", TWO), ("cancel", SLOW)],
    )
    assert check(history, ending).findings == []
    ending.tasks[2] = ending.tasks[2]._replace(state="REVOKED", error="Cancelled")
    assert len(check(history, ending).other) == 1
