"""run.submit: a submitted task exists if, and only if, the attempt that submits it succeeds."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy.orm import Session

from backend.db import leases
from backend.errors import TaskError
from backend.task import Run, Task
from backend.tasks.insert_message import MessageIn, insert_messages
from backend.tasks.slow import SlowArguments, slow
from tests.support.attempts import run_alone, run_together
from tests.support.ledger import submit, task
from tests.support.task_session import CULPRIT, SIZE, Nothing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import sqlalchemy as sa

    Action = Callable[[Run], object]


def submitting(action: Action, culprit: str = "", *, one_commit: bool) -> Task:
    """Return a task that submits another, and then, if its id is `culprit`, runs an action."""

    def function(_args: Nothing, run: Run) -> Nothing:
        run.submit(insert_messages, MessageIn(content=run.task_id))
        if culprit in {"", run.task_id}:
            action(run)
        return Nothing()

    return Task("a_task", function, Nothing, 5, 60, one_commit)


def submitters(service: sa.Engine) -> list[str]:
    """Return by which task each submitted task was submitted; all of them wait to be published."""
    with service.connect() as connection:
        found = connection.exec_driver_sql(
            "SELECT args ->> 'content' FROM tasks JOIN outbox ON task_id = id"
            " WHERE name = 'insert_message' AND state = 'PENDING' AND due_at <= now()"
        )
        return sorted(found.scalars())


def run_once(service: sa.Engine, action: Action, *, one_commit: bool) -> Mapping[str, Any]:
    """Run an attempt that submits a task and then runs an action; return the row of its task."""
    (task_id,) = submit(service)
    with service.begin() as connection:
        leases.renew(connection, "w", list)
    run_alone(submitting(action, one_commit=one_commit), task_id, "{}")
    return task(service, task_id)


def refuse(_run: Run) -> None:
    raise TaskError("no")


def submit_in_a_savepoint_that_is_rolled_back(run: Run) -> None:
    with suppress(ZeroDivisionError), run.session.begin_nested():
        run.submit(insert_messages, MessageIn(content="rolled back"))
        _ = 1 / 0


kinds = pytest.mark.parametrize("one_commit", [False, True], ids=["ordinary", "one commit"])


@kinds
def test_a_task_that_succeeds_has_submitted_the_other(
    service: sa.Engine, *, one_commit: bool
) -> None:
    row = run_once(service, submit_in_a_savepoint_that_is_rolled_back, one_commit=one_commit)
    assert (row["state"], submitters(service)) == ("SUCCESS", [str(row["id"])])


@kinds
@pytest.mark.parametrize("action", [refuse, lambda _run: 1 / 0], ids=["refused", "error"])
def test_a_task_that_fails_has_submitted_nothing(
    service: sa.Engine, action: Action, *, one_commit: bool
) -> None:
    row = run_once(service, action, one_commit=one_commit)
    assert row["state"] in {"FAILURE", "RETRY"}
    assert submitters(service) == []


def test_each_task_of_a_batch_submits_once_except_the_one_that_fails(service: sa.Engine) -> None:
    ids = submit(service, SIZE)
    report = run_together(submitting(refuse, ids[CULPRIT], one_commit=True), ids)
    assert report.alone == [ids[CULPRIT]]
    assert submitters(service) == sorted(set(ids) - {ids[CULPRIT]})


@pytest.mark.parametrize(
    ("function", "arguments", "says"),
    [
        (len, MessageIn(content="x"), "not a task: pass the function under its @task"),
        ("slow", SlowArguments(), "not a task"),
        (slow, MessageIn(content="x"), "task 'slow' takes SlowArguments"),
        (slow, {"duration": 1}, "task 'slow' takes SlowArguments"),
    ],
)
def test_a_wrong_function_or_model_is_refused(
    database: sa.Engine,
    function: Any,  # noqa: ANN401 - wrong on purpose
    arguments: Any,  # noqa: ANN401 - the same
    says: str,
) -> None:
    with Session(database) as session, pytest.raises(TypeError, match=says):
        Run("id", 1, session).submit(function, arguments)


def test_arguments_are_validated_as_those_of_a_request(database: sa.Engine) -> None:
    """A model that was changed, or made without validation, is not valid any more."""
    changed = MessageIn(content="x")
    changed.content = "a\x00b"
    with Session(database) as session:
        run = Run("id", 1, session)
        for arguments in (changed, MessageIn.model_construct(content=" ")):
            with pytest.raises(ValueError, match="must not"):
                run.submit(insert_messages, arguments)
        assert run.submit(slow, SlowArguments(duration=3))
        session.commit()
