"""Settings of connections and statements, also for a task's own queries."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from backend.db import connection as connections
from backend.db import ledger, lost_messages, queries, session
from backend.db.models import MessageCount
from backend.db.task_session import TaskSession
from backend.db.transaction_policy import TaskSafeConnection
from backend.errors import Duplicate, StoreUnavailable, TaskError
from backend.options import Options
from tests.support.ledger import publish, republish, submit
from tests.support.readiness import readiness

if TYPE_CHECKING:
    from collections.abc import Sequence

ROWS = 5_000
FOUND = sa.select(MessageCount).where(MessageCount.id == 7)


def burst(database: sa.Engine) -> None:
    """Submit many tasks that are not in the planner's statistics."""
    with database.begin() as connection:
        for table in ("tasks", "outbox"):
            connection.exec_driver_sql(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
    submit(database, ROWS)


def rows_read(connection: sa.Connection, table: str) -> int:
    """Return how many rows of a table this connection has just read through an index."""
    sql = f"SELECT idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = '{table}'"
    return int(connection.exec_driver_sql(sql).scalar_one() or 0)


def test_after_a_burst_the_relay_reads_only_the_rows_that_it_takes(database: sa.Engine) -> None:
    burst(database)
    with database.begin() as connection:
        assert len(publish(connection, 50)) == 50
        assert rows_read(connection, "outbox") < 1_000


def test_after_a_burst_the_relay_finds_an_urgent_row_without_reading_the_rest(
    database: sa.Engine,
) -> None:
    burst(database)
    (urgent,) = submit(database, options=Options(priority=9))
    with database.begin() as connection:
        taken = publish(connection, 50)
        assert len(taken) == 50
        assert taken[0].task_id == urgent
        assert rows_read(connection, "outbox") < 1_000


@pytest.mark.parametrize("overtaken", [False, True])
def test_after_a_burst_lost_messages_are_found_without_reading_the_rest(
    database: sa.Engine, *, overtaken: bool
) -> None:
    (running,) = submit(database)
    burst(database)
    published = "UPDATE outbox SET publishes = 1, published_at = now() - interval '1 h' + n"
    numbers = "SELECT task_id AS id, row_number() OVER () * interval '1 us' AS n FROM outbox"
    with database.begin() as connection:
        connection.exec_driver_sql(f"{published} FROM ({numbers}) numbered WHERE task_id = id")
        assert ledger.claim(connection, {running: 1}, "worker").ids
    with database.begin() as connection:
        before = rows_read(connection, "outbox")
        if overtaken:
            assert lost_messages.republish_overtaken(connection, "tasks", ["slow"], 10) == 10
        else:
            assert republish(connection, "tasks", 10) == 10
        assert rows_read(connection, "outbox") - before < 1_000


def test_after_a_burst_the_list_reads_only_the_rows_that_it_shows(database: sa.Engine) -> None:
    burst(database)
    with database.begin() as connection:
        rows, total = queries.unfinished(connection, 50)
        assert (len(rows), total) == (50, ROWS)
    with database.begin() as connection:
        before = rows_read(connection, "tasks")
        connection.execute(queries._LIST, {"limit": 50, "few": queries.FEW}).all()
        assert rows_read(connection, "tasks") - before < 1_000


def raw_of(connection: sa.Connection) -> TaskSafeConnection:
    raw = connection.connection.dbapi_connection
    assert isinstance(raw, TaskSafeConnection)
    return raw


def test_a_lazy_transaction_begins_with_its_first_statement(service: sa.Engine) -> None:
    assert service
    sql = sa.text("SET LOCAL lock_timeout = :number; SELECT current_setting('lock_timeout')")
    with session.transaction(lazy=True) as connection:
        raw = raw_of(connection)
        idle = [raw.is_idle()]
        assert connection.execute(sql, {"number": 1}).scalar_one() == "1ms"
        idle.append(raw.is_idle())
        assert connection.execute(sa.text("SHOW lock_timeout")).scalar_one() == "1ms"
    assert [*idle, raw.is_idle()] == [True, False, True]


@pytest.mark.parametrize(
    "wrong", ["SELECT 1 / 0", "SELEC", "SELECT pg_terminate_backend(pg_backend_pid())"]
)
def test_a_lazy_transaction_that_fails_writes_nothing_and_is_not_lazy_any_more(
    service: sa.Engine, wrong: str
) -> None:
    assert service

    def write(statements: Sequence[sa.Executable]) -> None:
        with session.transaction(lazy=True) as connection:
            for statement in statements:
                connection.execute(statement)

    add = sa.insert(MessageCount).values(id=7, messages=7)
    for first in (sa.text(wrong), sa.text("SELECT 1"), add):
        with pytest.raises((sa.exc.DBAPIError, StoreUnavailable)):
            write([first, sa.text(wrong)])
        with session.transaction() as connection:
            assert not raw_of(connection).autocommit
            assert connection.execute(FOUND).all() == []


def test_a_lazy_trial_is_rolled_back(service: sa.Engine) -> None:
    with session.trial(lazy=True) as connection:
        connection.execute(sa.insert(MessageCount).values(id=7, messages=7))
    with service.connect() as other:
        assert other.execute(FOUND).all() == []


def test_a_setting_for_one_statement_ends_with_it(service: sa.Engine) -> None:
    submit(service)
    show = sa.text("SHOW enable_bitmapscan")
    with session.autocommit_connection() as connection:
        assert len(queries.unfinished(connection, 10)[0]) == 1
        assert connection.execute(show).scalar_one() == "on"
        raw = connection.connection.dbapi_connection
        assert raw is not None
        assert raw.notices == [], "PostgreSQL itself accepts it"
    with session.transaction() as connection:
        assert len(publish(connection, 10)) == 1
    with session.transaction() as connection:
        assert connection.execute(show).scalar_one() == "on"


def test_a_tasks_own_queries_use_the_default_planner_settings(service: sa.Engine) -> None:
    assert service
    changed = sa.text("SELECT name FROM pg_settings WHERE name LIKE 'enable%' AND source <> :d")
    with TaskSession(session.engine(), time_limit=60) as own:
        assert own.execute(changed, {"d": "default"}).all() == []


def test_a_task_cannot_ignore_that_its_transaction_was_refused(service: sa.Engine) -> None:
    """A transaction must not begin after its attempt turned out to be superseded."""
    (task_id,) = submit(service)

    def refuse() -> None:
        raise Duplicate

    def write(own: TaskSession) -> None:
        with own.lent():
            for _ in range(2):
                with suppress(Exception):
                    own.execute(sa.text("UPDATE tasks SET progress = '1/2'"))

    with TaskSession(session.engine(), time_limit=60, before_begin=refuse) as own:
        with pytest.raises(Duplicate):
            write(own)
        with pytest.raises(TaskError), own.lent():
            own.commit()
    with service.begin() as connection:
        (record,) = queries.states(connection, [task_id])
    assert record is not None
    assert record.progress is None


@pytest.mark.parametrize("level", ["ROLE postgres IN DATABASE", "DATABASE"])
def test_commits_without_durability_are_reported_and_logged_once(
    service: sa.Engine, caplog: pytest.LogCaptureFixture, level: str
) -> None:
    (whole,) = readiness()
    assert whole.faults == []
    session.engine().dispose()
    session.autocommit().dispose()
    with service.begin() as connection:
        name = service.url.database
        connection.exec_driver_sql(f"ALTER {level} {name} SET synchronous_commit = off")
    connections._checked = False
    with caplog.at_level(logging.WARNING, logger="backend.db.connection"):
        (found,) = readiness()
        with session.transaction() as connection:
            assert connection.exec_driver_sql("SHOW synchronous_commit").scalar_one() == "off"
    assert found.faults == caplog.messages
    (fault,) = found.faults
    assert "answered with 202" in fault
    assert "synchronous_commit = on" in fault


def test_a_postgresql_with_fsync_off_is_reported() -> None:
    (fault,) = connections.undurable("off", "on")
    assert "fsync = on" in fault
