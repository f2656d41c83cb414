"""The checker of the chaos suite: it finds each kind of error, and none in a correct run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.chaos.checker import check
from tests.chaos.ending import Ending, Message, Task, tracebacks
from tests.chaos.history import Answer, Happened, History, Recorder
from tests.support.chaos_runs import ONE, TWO, correct_run, done, listed, read, submitted

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_a_correct_run_has_no_findings() -> None:
    report = check(*correct_run())
    assert report.findings == []
    assert (report.accepted, report.ended, report.effects) == (3, 3, 2)


ERRONEOUS: dict[str, tuple[str, Callable[[History, Ending], object]]] = {
    "an accepted task is missing": ("lost", lambda _, end: end.tasks.pop(0)),
    "its message is missing": ("lost", lambda _, end: end.messages.pop(0)),
    "404 for an accepted id": (
        "lost",
        lambda run, _: run.answers.append(read(ONE, "", 3, status=404)),
    ),
    "a task wrote two messages": (
        "twice",
        lambda _, end: end.messages.append(Message(3, ONE, "a")),
    ),
    "a request made two tasks": ("twice", lambda _, end: end.tasks.append(done("id-4", "a"))),
    "a key has two answers": (
        "twice",
        lambda run, _: run.answers.append(submitted("id-4", "b", 5, key="k")),
    ),
    "an id was returned twice": ("twice", lambda run, _: run.answers.append(submitted(ONE, "c"))),
    "a task has not ended": (
        "not_ended",
        lambda _, end: end.tasks.__setitem__(1, done(TWO, "b", state="RETRY")),
    ),
    "PENDING after STARTED": (
        "backwards",
        lambda run, _: run.answers.append(read(ONE, "PENDING", 1.55, replica=0)),
    ),
    "STARTED after the end": (
        "backwards",
        lambda run, _: run.answers.append(read(ONE, "STARTED", 2.2)),
    ),
    "an end that changed": (
        "backwards",
        lambda run, _: run.answers.append(read(ONE, "SUCCESS", 2.2, {"content": "b"})),
    ),
    "an end that the database does not have": (
        "backwards",
        lambda _, end: end.tasks.__setitem__(0, done(ONE, "a", result='{"content": "c"}')),
    ),
    "a list with a task that had ended": (
        "backwards",
        lambda run, _: run.answers.append(listed(3, ONE)),
    ),
    "a list without a task that ended later": (
        "other",
        lambda run, _: run.answers.append(listed(1.45)),
    ),
    "a task that should succeed failed": (
        "other",
        lambda _, end: end.tasks.__setitem__(1, done(TWO, "b", state="FAILURE")),
    ),
    "a task that was not requested": (
        "other",
        lambda _, end: end.tasks.append(done("id-4", "c", state="FAILURE")),
    ),
    "500": ("other", lambda run, _: run.answers.append(read(ONE, "", 3, status=500))),
    "503 while PostgreSQL was available": (
        "other",
        lambda run, _: run.answers.append(read(ONE, "", 30, status=503)),
    ),
    "no answer while the API was available": (
        "other",
        lambda run, _: run.answers.append(read(ONE, "", 30, status=None)),
    ),
    "a row in the outbox": ("other", lambda _, end: end.outbox.append(ONE)),
    "an open transaction": ("other", lambda _, end: end.open_transactions.append("BEGIN")),
    "a traceback": ("other", lambda _, end: end.tracebacks.append("worker: KeyError")),
    "a list that is not empty at the end": (
        "other",
        lambda _, end: end.listed.__setitem__(1, '{"tasks":[],"total":1}'),
    ),
    "something degraded at the end": (
        "other",
        lambda _, end: end.ready.__setitem__(0, '{"status":"ready","degraded":["no worker"]}'),
    ),
    "a wrong number of messages": ("other", lambda _, end: end.message_totals.__setitem__(0, 3)),
    "a process that ended by itself": (
        "other",
        lambda run, _: run.happened.append(Happened(1, 1, "ended_by_itself", "relay")),
    ),
}


@pytest.mark.parametrize("case", ERRONEOUS)
def test_the_checker_finds_each_kind_of_error(case: str) -> None:
    kind, change = ERRONEOUS[case]
    history, ending = correct_run()
    change(history, ending)
    assert getattr(check(history, ending), kind) != []


@pytest.mark.parametrize("status", [503, None])
def test_a_request_during_a_fault_may_have_created_a_task_or_not(status: int | None) -> None:
    history, ending = correct_run()
    history.happened.append(Happened(4, 5, "kill_api", "api-0"))
    history.answers.append(submitted("", "c", 4.2, status=status, body="ConnectError"))
    assert check(history, ending).findings == []
    ending.tasks.append(done("id-4", "c"))
    ending.messages.append(Message(3, "id-4", "c"))
    ending.message_totals[:] = [3, 3]
    assert check(history, ending).findings == []


def test_a_task_with_one_attempt_may_fail_only_if_a_fault_hit_its_worker() -> None:
    history, ending = correct_run()
    history.answers.append(submitted("id-4", "c", 6, asked=[("once", "c")]))
    ending.tasks.append(Task("id-4", "once", {"text": "c"}, "FAILURE", 1, None, "lost"))
    history.answers.append(read("id-4", "FAILURE", 8, {"error": "lost"}))
    assert len(check(history, ending).other) == 1
    history.happened.append(Happened(7, 7, "step_clock", "clock"))
    assert len(check(history, ending).other) == 1
    history.happened.append(Happened(7, 7.5, "kill_child", "worker-0"))
    assert check(history, ending).findings == []


def test_a_state_requested_before_another_was_received_may_be_older() -> None:
    history, ending = correct_run()
    history.answers.append(read(ONE, "STARTED", 2.05))
    assert check(history, ending).findings == []


def test_the_answers_of_a_stream_are_matched_with_the_requested_tasks() -> None:
    history, ending = correct_run()
    asked = [("no_such_task", ""), *(("insert_message", label) for label in "cde")]
    lines = ['{"line":1,"errors":[]}', '{"line":2,"task_id":"id-4","status":"PENDING"}']
    lines.append('{"line":3,"status":"REFUSED","errors":[]}')
    lines.append('{"line":4,"task_id":"id-5","status":"UNKNOWN","errors":[]}')
    history.answers.append(
        Answer(6, 7, 0, "POST", "/tasks/batch", 202, "\n".join(lines), None, asked)
    )
    report = check(history, ending)
    assert [finding[:30] for finding in report.lost] == ["insert_message 'c' id-4 is not"]
    assert report.findings == [f"lost: {report.lost[0]}"]


def test_a_saved_run_can_be_read_back_unchanged(tmp_path: Path) -> None:
    history, ending = correct_run()
    recorder = Recorder(tmp_path)
    for answer in history.answers:
        recorder.add(answer)
    for fault in history.happened:
        recorder.add(fault)
    recorder.close()
    ending.save(tmp_path)
    assert History.read(tmp_path) == history
    assert Ending.read(tmp_path) == ending


def test_an_unexpected_traceback_is_found_and_expected_ones_are_not(tmp_path: Path) -> None:
    log = tmp_path / "01-worker.log"
    lines = ["Traceback (most recent call last):\\n  File", '{"event": "all is well"}']
    lines += [
        json.dumps({"event": "raised", "exception": f"Traceback (…\n{error}"})
        for error in ("ValueError: x-1 made to fail", "KeyError: 'id'")
    ]
    log.write_text("\n".join(lines))
    found = list(tracebacks(log))
    assert len(found) == 2
    assert found[1] == "01-worker.log: raised: KeyError: 'id'"
