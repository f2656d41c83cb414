"""Ordinary tasks that share messages and transactions: each runs as if it were alone."""

from __future__ import annotations

import os
import signal
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.stack import ONE_PROCESS
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.support.stack import Stack

MINUTE = 60.0


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Give the file to which each attempt adds a line."""
    return tmp_path / "begun"


def post(stack: Stack, file: Path, steps: Sequence[str], name: str = "step") -> list[str]:
    """Post tasks in one request, so that they share a message; return their ids."""
    body = [{"name": name, "arguments": {"file": str(file), "what": what}} for what in steps]
    with stack.client() as client:
        answer = client.post("/tasks/batch", json=body)
    assert answer.status_code == 202, answer.text
    return [task["task_id"] for task in answer.json()["tasks"]]


def begun(file: Path) -> Counter[str]:
    """Return how often each task has begun."""
    lines = file.read_text().splitlines() if file.exists() else []
    return Counter(line.split()[0] for line in lines)


def ended(stack: Stack, ids: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Return state and attempt of tasks that have ended, by id."""
    rows = stack.query(
        "SELECT CAST(id AS text), state, attempt FROM tasks"
        " WHERE id = ANY(CAST(%s AS uuid[])) AND finished_at IS NOT NULL",
        list(ids),
    )
    return {row[0]: (row[1], row[2]) for row in rows}


def all_ended(stack: Stack, ids: Sequence[str], timeout: float = MINUTE) -> Any:  # noqa: ANN401
    eventually(lambda: len(ended(stack, ids)) == len(ids), timeout, "all tasks have ended")
    return ended(stack, ids)


def test_fast_tasks_share_transactions(odd_stack: Stack, file: Path) -> None:
    stack = odd_stack
    stack.start("api")
    ids = post(stack, file, ["nothing"] * 60)
    stack.start("worker", environment=ONE_PROCESS)
    assert set(all_ended(stack, ids).values()) == {("SUCCESS", 1)}
    shared = stack.scalar("SELECT count(DISTINCT CAST(xmin AS text)) FROM tasks")
    assert isinstance(shared, int)
    assert shared < 20
    assert set(begun(file).values()) == {1}
    assert stack.scalar("SELECT count(*) FROM outbox") == 0


def test_tasks_behind_a_long_one_run_in_another_process(odd_stack: Stack, file: Path) -> None:
    stack = odd_stack
    stack.start("api")
    stack.start("worker", environment={"WORKER_CONCURRENCY": "2"})
    ids = post(stack, file, ["nothing", "wait", *["nothing"] * 30])
    others = [ids[0], *ids[2:]]
    # Before the reconciler would publish them again, after 10 s.
    assert set(all_ended(stack, others, 9).values()) == {("SUCCESS", 1)}
    eventually(lambda: stack.state(ids[1])["status"] == "STARTED", 5, "the long one has started")
    file.with_name("go").touch()
    assert all_ended(stack, ids)[ids[1]] == ("SUCCESS", 1)
    assert set(begun(file).values()) == {1}


def test_tasks_behind_a_long_one_run_on_another_worker(odd_stack: Stack, file: Path) -> None:
    stack = odd_stack
    stack.start("api")
    stack.start("worker", name="busy", environment=ONE_PROCESS)
    ids = post(stack, file, ["wait", *["nothing"] * 30])
    eventually(lambda: stack.state(ids[0])["status"] == "STARTED", 10, "the long one has started")
    stack.start("worker", name="idle", environment=ONE_PROCESS)
    more = post(stack, file, ["nothing"] * 30)
    # Before the reconciler would publish them again, after 10 s.
    assert set(all_ended(stack, [*ids[1:], *more], 9).values()) == {("SUCCESS", 1)}
    file.with_name("go").touch()
    all_ended(stack, ids)
    assert set(begun(file).values()) == {1}


def test_a_task_that_kills_its_process_affects_no_other(odd_stack: Stack, file: Path) -> None:
    stack = odd_stack
    stack.start("api")
    ids = post(stack, file, [*["nothing"] * 10, "kill its process", *["nothing"] * 10])
    stack.start("worker", environment=ONE_PROCESS)
    found = all_ended(stack, ids)
    assert {state for state, _ in found.values()} == {"SUCCESS"}
    assert found[ids[10]] == ("SUCCESS", 2)
    assert all(found[task_id] == ("SUCCESS", 1) for task_id in ids[11:])
    # Their outcomes may have been lost with the process; then they ran again at no cost.
    before = stack.query(
        "SELECT max_attempts - attempt FROM tasks WHERE id = ANY(CAST(%s AS uuid[]))", ids[:10]
    )
    assert set(before) == {(2,)}


def test_a_time_limit_ends_only_the_task_that_exceeds_it(odd_stack: Stack, file: Path) -> None:
    stack = odd_stack
    stack.start("api")
    ids = post(stack, file, ["nothing", "wait", *["nothing"] * 5], "step_with_limit")
    stack.start("worker", environment=ONE_PROCESS)
    found = all_ended(stack, [ids[0], *ids[2:]])
    assert set(found.values()) == {("SUCCESS", 1)}
    eventually(lambda: stack.attempt(ids[1]) == 2, 20, "the long one has its second attempt")
    file.with_name("go").touch()
    assert all_ended(stack, ids)[ids[1]] == ("SUCCESS", 2)


def test_an_error_ends_only_the_attempt_that_raised(odd_stack: Stack, file: Path) -> None:
    stack = odd_stack
    stack.start("api")
    ids = post(stack, file, ["nothing", "raise", "nothing", "raise", "nothing"])
    stack.start("worker", environment=ONE_PROCESS)
    found = all_ended(stack, ids)
    assert [found[task_id] for task_id in ids] == [
        ("SUCCESS", attempt) for attempt in (1, 2, 1, 2, 1)
    ]


def test_writes_and_progress_between_other_tasks_happen_once(odd_stack: Stack, file: Path) -> None:
    stack = odd_stack
    stack.start("api")
    ids = post(stack, file, ["nothing", "write", "nothing", "report", "write", "nothing"])
    stack.start("worker", environment=ONE_PROCESS)
    assert set(all_ended(stack, ids).values()) == {("SUCCESS", 1)}
    written = stack.query("SELECT CAST(task_id AS text) FROM messages ORDER BY id")
    assert [row[0] for row in written] == [ids[1], ids[4]]
    assert stack.scalar("SELECT progress FROM tasks WHERE id = %s", ids[3]) == "1/2"
    assert set(begun(file).values()) == {1}


@pytest.mark.parametrize("how", ["is frozen", "keeps the interpreter"])
def test_tasks_behind_one_whose_process_cannot_answer_run_elsewhere(
    odd_stack: Stack, file: Path, how: str
) -> None:
    stack = odd_stack
    stack.start("api")
    first = stack.start("worker", name="first", environment=ONE_PROCESS)
    what = "wait" if how == "is frozen" else "keep the interpreter"
    child = first.children()[0]
    ids = post(stack, file, [what, *["nothing"] * 20])
    eventually(lambda: len(begun(file)) == 1, 10, "the first one has begun")
    if how == "is frozen":
        os.kill(child, signal.SIGSTOP)
    stack.start("worker", name="second", environment={"WORKER_CONCURRENCY": "2"})
    all_ended(stack, ids[1:], 20)
    assert ids[0] not in ended(stack, ids)
    os.kill(child, signal.SIGCONT)
    file.with_name("go").touch()
    assert all_ended(stack, ids)[ids[0]] == ("SUCCESS", 1)
    assert begun(file) == dict.fromkeys(ids, 1)
    assert stack.scalar("SELECT count(*) FROM outbox") == 0


def test_a_process_that_a_task_forked_may_report_progress(odd_stack: Stack, file: Path) -> None:
    stack = odd_stack
    stack.start("api")
    ids = post(stack, file, ["nothing", "report from a fork", "nothing"])
    stack.start("worker", environment=ONE_PROCESS)
    assert set(all_ended(stack, ids).values()) == {("SUCCESS", 1)}
    assert stack.query("SELECT CAST(task_id AS text) FROM messages") == [(ids[1],)]
    assert stack.scalar("SELECT progress FROM tasks WHERE id = %s", ids[1]) == "1/2"


def test_a_worker_that_stops_begins_no_further_task(odd_stack: Stack, file: Path) -> None:
    stack = odd_stack
    stack.start("api")
    ids = post(stack, file, ["nap"] * 100)
    patient = ONE_PROCESS | {"STOP_SECONDS": "60"}
    first = stack.start("worker", name="first", environment=patient)
    eventually(lambda: len(begun(file)) > 2, 20, "some have begun")
    first.popen.terminate()
    assert first.popen.wait(15) == 0, "it does not wait for STOP_SECONDS"
    assert len(begun(file)) < 90
    stack.start("worker", name="second", environment=ONE_PROCESS)
    assert set(all_ended(stack, ids).values()) == {("SUCCESS", 1)}
    assert begun(file) == dict.fromkeys(ids, 1)


def test_a_task_that_kills_its_worker_uses_up_an_attempt(odd_stack: Stack, file: Path) -> None:
    stack = odd_stack
    stack.start("api")
    ids = post(stack, file, ["kill its worker", "nothing", "nothing"])
    for name in ("first", "second"):
        worker = stack.start("worker", name=name, environment=ONE_PROCESS).popen
        assert worker.wait(20) == -signal.SIGKILL
    stack.start("worker", name="third", environment=ONE_PROCESS)
    found = all_ended(stack, ids)
    assert found == {ids[0]: ("SUCCESS", 2), ids[1]: ("SUCCESS", 1), ids[2]: ("SUCCESS", 1)}


def test_a_task_with_one_attempt_does_not_begin_twice(odd_stack: Stack, file: Path) -> None:
    stack = odd_stack
    stack.start("api")
    ids = post(stack, file, ["nothing", "kill its worker", "nothing"], "step_once")
    stack.start("worker", name="first", environment=ONE_PROCESS)
    eventually(lambda: stack["first"].popen.poll() is not None, 20, "the worker is dead")
    stack.start("worker", name="second", environment=ONE_PROCESS)
    found = all_ended(stack, ids)
    assert found[ids[1]] == ("FAILURE", 1)
    assert set(begun(file).values()) == {1}


def test_each_of_many_tasks_begins_once(odd_stack: Stack, file: Path) -> None:
    stack = odd_stack
    stack.start("api")
    stack.start("worker", environment={"WORKER_CONCURRENCY": "2"})
    ids = [task_id for _ in range(10) for task_id in post(stack, file, ["nothing"] * 100)]
    assert set(all_ended(stack, ids).values()) == {("SUCCESS", 1)}
    assert begun(file) == dict.fromkeys(ids, 1)
