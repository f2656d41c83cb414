"""A task cannot end the transaction in which its outcome is written."""

from __future__ import annotations

from contextlib import suppress
from itertools import product
from typing import TYPE_CHECKING, Any

import psycopg2.sql
import pytest
import sqlalchemy as sa
from psycopg2.extras import RealDictCursor
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from backend.db.transaction_policy import ENDED
from backend.errors import Error
from backend.worker.attempt.attempt import Attempt
from tests.support.ledger import task
from tests.support.task_session import (
    CULPRIT,
    SIZE,
    raw,
    run_in_batch,
    run_once,
    sql,
    waiting,
    written,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Action = Callable[[Session], object]

DUPLICATE = sa.text("INSERT INTO message_counts (id, messages) VALUES (7, 0), (7, 0)")


class Base(DeclarativeBase):
    """The tests' own model."""


class Count(Base):
    """A row of a table without triggers."""

    __tablename__ = "message_counts"

    id: Mapped[int] = mapped_column(primary_key=True)
    messages: Mapped[int]


def execute(statement: Any) -> Action:  # noqa: ANN401 - anything that psycopg2 executes
    return raw(lambda connection: connection.cursor().execute(statement))


def execute_unseen(statement: str) -> Action:
    """Return an action that executes a statement which nothing refuses."""
    execute = psycopg2.extensions.cursor.execute
    return raw(lambda connection: execute(connection.cursor(), statement))


def swallow(action: Action, error: type[Exception] = sa.exc.IntegrityError) -> Action:
    """Return an action that runs another one and ignores its error."""

    def done(session: Session) -> None:
        with suppress(error):
            action(session)

    return done


def rollback_after_error(session: Session) -> None:
    try:
        session.execute(DUPLICATE)
    except sa.exc.IntegrityError:
        session.rollback()


def begin(session: Session) -> None:
    with session.begin():
        session.execute(sa.text("SELECT 1"))


def enter(session: Session) -> None:
    with session:
        session.execute(sa.text("SELECT 1"))


def add_twice(session: Session) -> None:
    session.add_all([Count(id=7, messages=0)])
    session.execute(sa.insert(Count).values(id=7, messages=0))
    session.flush()


def with_connection(connection: Any) -> None:  # noqa: ANN401 - psycopg2's
    with connection:
        connection.cursor().execute("SELECT 1")


def read_rows_as_dicts(connection: Any) -> None:  # noqa: ANN401 - psycopg2's
    """Use psycopg2's dictionary cursors."""
    with connection.cursor(cursor_factory=RealDictCursor) as cursor:
        cursor.execute("SELECT 1 AS a")
        assert cursor.fetchall() == [{"a": 1}]
    with connection.cursor("named") as cursor:
        cursor.execute("SELECT 1")
        assert cursor.fetchall() == [(1,)]


def own_transaction(session: Session) -> None:
    with Session(session.get_bind()) as own, own.begin():
        own.execute(sa.text("SELECT 1"))


# Each would end the transaction, in a different way.
ENDINGS: Mapping[str, Action] = {
    "commit": lambda session: session.commit(),
    "rollback": lambda session: session.rollback(),
    "rollback after an error": rollback_after_error,
    "commit, swallowed": swallow(lambda session: session.commit(), Error),
    "rollback, swallowed": swallow(lambda session: session.rollback(), Error),
    "begin": begin,
    "close": lambda session: session.close(),
    "a with block": enter,
    "reset": lambda session: session.reset(),
    "invalidate": lambda session: session.invalidate(),
    "the transaction's commit": lambda session: session.get_transaction().commit(),  # type: ignore[union-attr]  # there is one
    "the transaction's rollback": lambda session: session.get_transaction().rollback(),  # type: ignore[union-attr]  # the same
    "the connection's commit": lambda session: session.connection().commit(),
    "the connection's rollback": lambda session: session.connection().rollback(),
    "the connection's close": lambda session: session.connection().close(),
    "psycopg2's commit": raw(lambda connection: connection.commit()),
    "psycopg2's rollback": raw(lambda connection: connection.rollback()),
    "psycopg2's reset": raw(lambda connection: connection.reset()),
    "psycopg2's level": raw(lambda connection: connection.set_isolation_level(0)),
    "psycopg2's encoding": raw(lambda connection: connection.set_client_encoding("LATIN1")),
    "psycopg2's with block": raw(with_connection),
    "COMMIT": sql("COMMIT"),
    "commit work": sql("  commit work"),
    "COMMIT AND CHAIN": sql("COMMIT AND CHAIN"),
    "END": sql("END"),
    "ABORT": sql("ABORT"),
    "ROLLBACK": sql("ROLLBACK"),
    "ROLLBACK AND CHAIN": sql("ROLLBACK AND CHAIN"),
    "ROLLBACK, swallowed": swallow(sql("ROLLBACK"), Error),
    "BEGIN": sql("BEGIN"),
    "START TRANSACTION": sql("START TRANSACTION"),
    "PREPARE TRANSACTION": sql("PREPARE TRANSACTION 'a'"),
    "SET TRANSACTION": sql("SET TRANSACTION READ ONLY"),
    "behind a comment": sql("/* why */ -- because\n COMMIT"),
    "behind a comment, with a semicolon": sql("-- done\nCOMMIT;"),
    "behind comments of both kinds": sql("/* x; */ -- y;\n COMMIT"),
    "behind another statement": sql("SELECT 1; COMMIT"),
    "behind another statement and a comment": sql("SELECT 1; -- a\nCOMMIT"),
    "behind a semicolon in quotes": sql("SELECT ';', $$;'$$, E'\\';'; COMMIT; BEGIN"),
    "behind a quote in a comment": sql("SELECT 1 /* it's */; COMMIT; SELECT 'a'"),
    "as bytes": execute(b"COMMIT"),
    "as psycopg2.sql": execute(psycopg2.sql.SQL("COMMIT")),
    "behind a comment in a comment": sql("/* a /* b */ ; c */ COMMIT"),
    "behind names with dollars": sql("SELECT 1 AS a$b$; COMMIT; SELECT 2 AS c$b$"),
    "in a cursor of another class": raw(
        lambda c: c.cursor(cursor_factory=RealDictCursor).execute("COMMIT")
    ),
    "in executemany": raw(lambda c: c.cursor().executemany("COMMIT", [(), ()])),
    "a failed statement, swallowed": swallow(sql(str(DUPLICATE))),
    "a failed flush, swallowed": swallow(add_twice),
    "in a block of PL/pgSQL": sql("DO 'BEGIN COMMIT; END'"),
}
# None of these ends the transaction.
HARMLESS: Mapping[str, Action] = {
    "a savepoint": lambda session: session.begin_nested().commit(),
    "a savepoint, rolled back": lambda session: session.begin_nested().rollback(),
    "a savepoint, left open": lambda session: session.begin_nested(),
    "a savepoint in SQL": sql(
        "SAVEPOINT a; ROLLBACK TO a; rollback work to savepoint a; RELEASE a"
    ),
    "a semicolon in quotes": sql("SELECT '; COMMIT', $a$; COMMIT$a$ AS \"; COMMIT\" -- ; COMMIT"),
    "a word with the same beginning": sql(
        'SELECT 1 AS "commit"; WITH ending AS (SELECT 1) SELECT 1'
    ),
    "CASE ... END": sql("SELECT CASE WHEN true THEN 1 END"),
    "a transaction of its own": own_transaction,
    "other cursors": raw(read_rows_as_dicts),
}


def caught_in_savepoint(session: Session) -> None:
    """Do what the error messages recommend."""
    with suppress(sa.exc.IntegrityError), session.begin_nested():
        session.execute(DUPLICATE)


@pytest.mark.parametrize("action", ENDINGS.values(), ids=ENDINGS)
def test_a_task_that_would_end_its_transaction_runs_alone_and_the_others_of_its_batch_succeed(
    service: sa.Engine, action: Action
) -> None:
    ids, report = run_in_batch(service, action)
    others = sorted(set(ids) - {ids[CULPRIT]})
    assert report.alone == [ids[CULPRIT]]
    assert sorted(report.ended) == others
    assert written(service) == others
    assert waiting(service) == [ids[CULPRIT]]
    states = {task_id: task(service, task_id)["state"] for task_id in ids}
    assert states == dict.fromkeys(others, "SUCCESS") | {ids[CULPRIT]: "PENDING"}


@pytest.mark.parametrize("one_commit", [False, True], ids=["ordinary", "one commit"])
@pytest.mark.parametrize("action", ENDINGS.values(), ids=ENDINGS)
def test_a_task_that_would_end_its_transaction_fails_and_leaves_nothing(
    service: sa.Engine, action: Action, *, one_commit: bool
) -> None:
    row = run_once(service, action, one_commit=one_commit)
    assert row["state"] in {"FAILURE", "RETRY"}
    assert written(service) == []
    assert waiting(service) == ([str(row["id"])] if row["state"] == "RETRY" else [])


@pytest.mark.parametrize("action", HARMLESS.values(), ids=HARMLESS)
@pytest.mark.parametrize("one_commit", [False, True], ids=["ordinary", "one commit"])
def test_savepoints_and_other_transactions_are_allowed(
    service: sa.Engine, action: Action, *, one_commit: bool
) -> None:
    row = run_once(service, action, one_commit=one_commit)
    assert (row["state"], written(service)) == ("SUCCESS", [str(row["id"])])


def test_an_error_caught_in_a_savepoint_does_not_fail_the_batch(
    service: sa.Engine,
) -> None:
    ids, report = run_in_batch(service, caught_in_savepoint)
    assert sorted(report.ended) == sorted(ids) == written(service)


def test_a_refused_statement_says_in_one_sentence_what_to_do_instead(service: sa.Engine) -> None:
    row = run_once(service, ENDINGS["rollback"], one_commit=True)
    assert row["error"] == (
        "run.session.rollback(): a task cannot end the transaction that its outcome is part of;"
        " put what may fail into `with run.session.begin_nested():`"
    )


def test_errors_of_a_broken_transaction_are_retried_and_refusals_are_not(
    service: sa.Engine,
) -> None:
    states = {
        name: run_once(service, action, one_commit=False)["state"]
        for name, action in ENDINGS.items()
    }
    assert {name for name, state in states.items() if state == "RETRY"} == {
        "the transaction's rollback",
        "the connection's rollback",
        "the connection's close",
        "psycopg2's rollback",
        "a failed statement, swallowed",
        "a failed flush, swallowed",
        "in a block of PL/pgSQL",
    }
    assert set(states.values()) == {"RETRY", "FAILURE"}


def test_a_commit_that_was_not_refused_is_noticed_before_the_outcome(service: sa.Engine) -> None:
    """Psycopg2's own method commits; after the second action another transaction is open."""
    once, again = execute_unseen("COMMIT"), execute_unseen("COMMIT; BEGIN")
    for commit, one_commit in product((once, again), (False, True)):
        row = run_once(service, commit, one_commit=one_commit)
        assert (row["state"], row["error"]) == ("FAILURE", ENDED)


def test_an_attempt_whose_process_died_after_its_own_commit_still_waits_in_the_outbox(
    service: sa.Engine,
) -> None:
    class Unrecorded(Attempt):
        def record_error(self, error: str, error_type: str, *, retry: bool) -> None:
            raise RuntimeError(error, error_type, retry)

    row = run_once(service, execute_unseen("COMMIT"), one_commit=True, kind=Unrecorded)
    assert (row["state"], waiting(service)) == ("PENDING", [str(row["id"])])


def test_the_session_is_flushed_before_the_next_task_begins(
    service: sa.Engine,
) -> None:
    """A pending object that cannot be written must fail its own task only."""

    def add(session: Session) -> None:
        session.add(Count(id=None, messages=None))

    ids, report = run_in_batch(service, add)
    assert report.alone == [ids[CULPRIT]]
    assert len(report.ended) == SIZE - 1


def test_a_session_kept_by_a_task_cannot_be_used_after_its_end(service: sa.Engine) -> None:
    kept: list[Session] = []
    for one_commit in (False, True):
        assert run_once(service, kept.append, one_commit=one_commit)["state"] == "SUCCESS"
    for session in kept:
        with pytest.raises(sa.exc.InvalidRequestError, match="closed"):
            session.execute(sa.text("SELECT 1"))
