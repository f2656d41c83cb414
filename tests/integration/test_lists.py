"""Short tasks whose function takes lists: it is called once for the tasks of a batch."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from pydantic import BaseModel
from structlog.contextvars import get_contextvars

from backend.db import leases, messages
from backend.errors import TaskError
from backend.registry import registered
from backend.task import Run, Task
from backend.worker.attempt.execute import run
from tests.support.attempts import attempt_of, run_alone
from tests.support.ledger import submit, task
from tests.support.task_session import CULPRIT, SIZE, declare, sql

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backend.worker.attempt.report import Report


class Note(BaseModel):
    """The argument and the value of the tasks below."""

    text: str


class Noting:
    """A task that writes a message for each argument of a call, and remembers its calls."""

    def __init__(self, answer: Callable[[list[Note]], object] = list) -> None:
        self.calls: list[list[str]] = []
        self._answer = answer
        self.spec = Task("note", self._note, Note, one_commit=True, takes_lists=True)

    def _note(self, args: list[Note], runs: list[Run]) -> list[Note]:
        self.calls.append([each.text for each in args])
        ids = [each.task_id for each in runs]
        messages.insert_many(runs[0].session, [each.text for each in args], ids)
        return self._answer(args)  # type: ignore[return-value]  # some are wrong on purpose


@pytest.fixture
def ids(service: sa.Engine) -> list[str]:
    """Return the ids of tasks that wait, in the order in which they were submitted."""
    with service.begin() as connection:
        leases.renew(connection, "w", list)
    return submit(service, SIZE)


def arguments(task_id: str) -> str:
    return json.dumps({"text": f"of {task_id}"})


def batch(spec: Task, ids: Sequence[str]) -> Report:
    """Run the first attempts of tasks as a batch, each with an argument that names it."""
    return run([attempt_of(spec, each, arguments(each), queue="short_tasks") for each in ids])


def written(service: sa.Engine) -> dict[str, str]:
    """Return the text of each task's message."""
    with service.connect() as connection:
        rows = connection.exec_driver_sql("SELECT CAST(task_id AS text), content FROM messages")
        return {row[0]: row[1] for row in rows}


def test_a_function_that_takes_lists_is_called_once_for_a_batch(
    service: sa.Engine, ids: list[str]
) -> None:
    noting = Noting()
    report = batch(noting.spec, ids)
    assert noting.calls == [[f"of {each}" for each in ids]]
    assert written(service) == {each: f"of {each}" for each in ids}
    assert report.alone == []
    for each in ids:
        row = task(service, each)
        assert (row["state"], row["result"]) == ("SUCCESS", {"text": f"of {each}"})


def test_tasks_that_do_not_wait_are_not_in_the_lists(service: sa.Engine, ids: list[str]) -> None:
    noting = Noting()
    batch(noting.spec, ids[:3])
    batch(noting.spec, ids)
    assert all(task(service, each)["result"] == {"text": f"of {each}"} for each in ids)
    assert noting.calls[1] == [f"of {each}" for each in ids[3:]]
    assert written(service).keys() == set(ids)


def test_a_task_that_runs_alone_gets_lists_with_one_item(
    service: sa.Engine, ids: list[str]
) -> None:
    noting = Noting()
    run_alone(noting.spec, ids[0], arguments(ids[0]), queue="short_tasks")
    assert noting.calls == [[f"of {ids[0]}"]]
    assert task(service, ids[0])["result"] == {"text": f"of {ids[0]}"}


def test_each_inserted_message_belongs_to_its_task(service: sa.Engine, ids: list[str]) -> None:
    spec = registered()["insert_message"]
    run(
        [
            attempt_of(spec, each, json.dumps({"content": each}), queue="short_tasks")
            for each in reversed(ids)
        ]
    )
    with service.connect() as connection:
        rows = connection.exec_driver_sql(
            "SELECT CAST(task_id AS text) AS task_id, id, content FROM messages ORDER BY id"
        ).all()
    assert [row.task_id for row in rows] == ids[::-1]
    for row in rows:
        result = task(service, row.task_id)["result"]
        assert (result["id"], result["content"]) == (row.id, row.content) == (row.id, row.task_id)


def refuse(culprit: str) -> Callable[[list[Note]], list[Note]]:
    """Return an answer that refuses the argument of one task."""

    def answer(args: list[Note]) -> list[Note]:
        if any(each.text == f"of {culprit}" for each in args):
            raise TaskError("no")
        return args

    return answer


def test_after_an_error_the_function_is_called_for_each_task_and_only_one_leaves_the_batch(
    service: sa.Engine, ids: list[str]
) -> None:
    culprit = ids[CULPRIT]
    noting = Noting(refuse(culprit))
    report = batch(noting.spec, ids)
    assert report.alone == [culprit]
    single = [[f"of {each}"] for each in ids]
    without = single[:CULPRIT] + single[CULPRIT + 1 :]
    # Once for all, then one by one until the error, then without the one that raised.
    assert noting.calls == [
        [f"of {each}" for each in ids],
        *single[: CULPRIT + 1],
        *without,
    ]
    assert written(service).keys() == set(ids) - {culprit}
    run_alone(noting.spec, culprit, arguments(culprit), queue="short_tasks")
    states = {each: task(service, each)["state"] for each in ids}
    assert states == {**dict.fromkeys(ids, "SUCCESS"), culprit: "FAILURE"}


def together(args: list[Note]) -> list[Note]:
    """Return the values of one task; raise for several."""
    if len(args) > 1:
        raise ValueError("not together")
    return args


def test_an_error_that_only_a_call_for_several_tasks_raises_is_logged(
    service: sa.Engine, ids: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    report = batch(Noting(together).spec, ids)
    assert report.alone == []
    assert {task(service, each)["state"] for each in ids} == {"SUCCESS"}
    (record,) = [each for each in caplog.records if "called for" in each.getMessage()]
    assert f"note failed when it was called for {SIZE} tasks" in record.getMessage()
    assert record.exc_info
    assert str(record.exc_info[1]) == "not together"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda args: args[1:], "returned 0 values for 1 arguments"),
        (lambda args: [*args, *args], "returned 2 values for 1 arguments"),
        (lambda args: [*args, args.pop()], "returned 2 values for 1 arguments"),
        (tuple, "returned tuple instead of a list"),
        (lambda args: [each.text for each in args], "returned str instead of a Pydantic model"),
    ],
)
def test_a_wrong_list_of_values_fails_the_task_and_leaves_nothing(
    service: sa.Engine, ids: list[str], answer: Callable[[list[Note]], object], says: str
) -> None:
    noting = Noting(answer)
    assert sorted(batch(noting.spec, ids).alone) == ids
    # For all, then two errors of one task each: the rest of the batch is given up.
    assert [len(call) for call in noting.calls] == [SIZE, 1, 1]
    run_alone(noting.spec, ids[0], arguments(ids[0]), queue="short_tasks")
    row = task(service, ids[0])
    assert row["state"] == "FAILURE"
    assert says in row["error"]
    assert written(service) == {}


def test_an_error_of_one_function_leaves_the_other_tasks_of_the_batch_together(
    service: sa.Engine, ids: list[str]
) -> None:
    noting, others = Noting(refuse(ids[0])), declare(sql("SELECT 1"), "", one_commit=True)
    attempts = [attempt_of(noting.spec, each, arguments(each)) for each in ids[:10]]
    attempts += [attempt_of(others, each, "{}") for each in ids[10:]]
    report = run(attempts)
    assert report.alone == ids[:1]
    assert written(service).keys() == set(ids[1:])


def test_arguments_that_do_not_fit_are_an_error_of_their_task_only(
    service: sa.Engine, ids: list[str]
) -> None:
    noting = Noting()
    attempts = [attempt_of(noting.spec, each, arguments(each)) for each in ids[1:]]
    report = run([attempt_of(noting.spec, ids[0], '{"text": 7}'), *attempts])
    assert report.alone == ids[:1]
    assert noting.calls == [[f"of {each}" for each in ids[1:]]]
    assert written(service).keys() == set(ids[1:])


def test_a_function_with_lists_that_always_breaks_its_connection_fails(
    service: sa.Engine, ids: list[str]
) -> None:
    culprit = ids[CULPRIT]

    def break_connection(args: list[Note], runs: list[Run]) -> list[Note]:
        messages.insert_many(
            runs[0].session, [each.text for each in args], [each.task_id for each in runs]
        )
        if culprit in {each.task_id for each in runs}:
            runs[0].session.execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))
        return args

    spec = Task("note", break_connection, Note, one_commit=True, takes_lists=True)
    report = batch(spec, ids)
    assert report.alone == [culprit]
    assert written(service).keys() == set(ids) - {culprit}
    run_alone(spec, culprit, arguments(culprit), queue="short_tasks")
    row = task(service, culprit)
    assert "lost its database connection" in row["error"]


def test_the_log_lines_of_a_task_that_runs_alone_have_its_id(
    ids: list[str],
) -> None:
    seen: list[object] = []

    def look(args: list[Note], _runs: list[Run]) -> list[Note]:
        seen.append(get_contextvars().get("task_id"))
        return args

    spec = Task("note", look, Note, one_commit=True, takes_lists=True)
    batch(spec, ids[:2])
    run_alone(spec, ids[2], arguments(ids[2]), queue="short_tasks")
    assert seen == [None, ids[2]]
