"""`run_task` for tasks that use `run.session`: the test sees the writes, then they are undone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from pydantic import BaseModel

import backend.task
from backend.db import messages
from backend.db.session import trial
from backend.errors import StatementFailed, TaskError
from backend.settings import settings
from backend.task import Run, task
from backend.tasks.insert_message import MessageIn, insert_messages
from backend.testing import run_task
from tests.support.task_session import written

if TYPE_CHECKING:
    from collections.abc import Callable

TASK = str(uuid4())
COUNT = sa.text("SELECT count(*) FROM messages")


class Statement(BaseModel):
    """What the task executes after it has written a message."""

    sql: str = "SELECT 1"


@pytest.fixture(autouse=True)
def declared(service: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> sa.Engine:
    """Set DATABASE_URL and no broker; remove what a test declares."""
    monkeypatch.delenv("CELERY_BROKER_URL")
    monkeypatch.setattr("backend.settings.ENV_FILES", ())
    settings.cache_clear()
    monkeypatch.setattr(backend.task, "declared_tasks", dict(backend.task.declared_tasks))
    return service


@pytest.fixture(params=[False, True], ids=["ordinary", "one commit"])
def write(request: pytest.FixtureRequest) -> Callable[[Statement, Run], Statement]:
    """Give a task that writes a message and executes a statement."""

    @task(name="write", one_commit=request.param)
    def write(args: Statement, run: Run) -> Statement:
        messages.insert(run.session, "written", run.task_id)
        run.session.execute(sa.text(args.sql))
        return args

    return write


Write = Any


def test_writes_of_a_task_are_rolled_back(service: sa.Engine, write: Write) -> None:
    assert run_task(write, Statement()).value == Statement()
    assert run_task(insert_messages, MessageIn(content="Hello")).value.content == "Hello"
    assert written(service) == []


def test_a_test_prepares_rows_and_reads_what_a_task_wrote(service: sa.Engine, write: Write) -> None:
    with trial() as connection:
        messages.insert_many(connection, ["prepared"])
        run_task(write, Statement(), connection=connection)
        run_task(insert_messages, MessageIn(content="Hello"), connection=connection)
        found = connection.execute(sa.text("SELECT content FROM messages ORDER BY id"))
        assert list(found.scalars()) == ["prepared", "written", "Hello"]
    assert written(service) == []


def test_a_task_that_raises_leaves_only_the_rows_that_the_test_prepared(write: Write) -> None:
    with trial() as connection:
        messages.insert_many(connection, ["prepared"])
        with pytest.raises(sa.exc.DataError):
            run_task(write, Statement(sql="SELECT 1 / 0"), connection=connection)
        assert connection.execute(COUNT).scalar_one() == 1


@pytest.mark.parametrize("own_connection", [False, True])
@pytest.mark.parametrize("sql", ["COMMIT", "ROLLBACK"])
def test_a_task_cannot_end_its_transaction(
    service: sa.Engine, write: Write, sql: str, *, own_connection: bool
) -> None:
    with trial() as connection, pytest.raises(TaskError, match="cannot end the transaction"):
        run_task(write, Statement(sql=sql), connection=connection if own_connection else None)
    assert written(service) == []


@pytest.mark.parametrize("own_connection", [False, True])
def test_a_task_that_goes_on_after_a_failed_statement_fails(*, own_connection: bool) -> None:
    @task(name="swallow")
    def swallow(args: Statement, run: Run) -> Statement:
        with pytest.raises(sa.exc.DataError):
            run.session.execute(sa.text("SELECT 1 / 0"))
        return args

    with trial() as connection, pytest.raises(StatementFailed, match="had failed"):
        run_task(swallow, Statement(), connection=connection if own_connection else None)


def test_a_connection_that_would_not_refuse_a_commit_is_refused(
    service: sa.Engine, write: Write
) -> None:
    with service.connect() as connection, pytest.raises(TypeError, match=r"trial\(\)"):
        run_task(write, Statement(), connection=connection)


def test_a_task_that_does_not_use_its_session_opens_no_transaction(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @task(name="idle")
    def idle(args: Statement, run: Run) -> Statement:  # noqa: ARG001 - a task's signature
        return args

    monkeypatch.setenv("DATABASE_URL", "postgresql+psycopg2://nobody@127.0.0.1:9/none")
    run_task(idle, Statement())


def test_the_given_id_is_the_one_that_the_task_writes(service: sa.Engine) -> None:
    with trial() as connection:
        run_task(insert_messages, MessageIn(content="x"), task_id=TASK, connection=connection)
        found = connection.execute(sa.text("SELECT CAST(task_id AS text) FROM messages"))
        assert found.scalar_one() == TASK
    assert written(service) == [], "also if the task has begun the transaction"


def test_a_task_that_submits_another_one_leaves_neither(service: sa.Engine) -> None:
    @task(name="submitting")
    def submitting(args: MessageIn, run: Run) -> MessageIn:
        run.submit(insert_messages, args)
        return args

    count = sa.text("SELECT count(*) FROM tasks JOIN outbox ON task_id = id")
    with trial() as connection:
        run_task(submitting, MessageIn(content="for the other task"), connection=connection)
        assert connection.execute(count).scalar() == 1
    with service.connect() as connection:
        assert connection.execute(count).scalar() == 0
