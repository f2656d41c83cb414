"""Settings of connections and statements, also for a task's own queries."""

from __future__ import annotations

import logging
from contextlib import suppress
from io import StringIO
from typing import Any

import pytest
import sqlalchemy as sa
from psycopg2 import extensions
from psycopg2.sql import SQL

from backend.db import connection as connections
from backend.db import ledger, outbox, queries, session
from backend.db.task_session import TaskSession
from backend.db.transaction_policy import TaskSafeConnection
from backend.errors import Duplicate, TaskError
from tests.support.ledger import publish, republish, submit
from tests.support.readiness import readiness

ROWS = 5_000


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
            assert outbox.republish_overtaken(connection, "tasks", ["slow"], 10) == 10
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


def test_a_transaction_begins_with_its_first_statement(service: sa.Engine) -> None:
    assert service
    with session.transaction() as connection:
        raw = connection.connection.dbapi_connection
        assert isinstance(raw, TaskSafeConnection)
        states = [raw.get_transaction_status()]
        for number in (1, 2):
            connection.execute(sa.text("SET LOCAL lock_timeout = :number"), {"number": number})
            states.append(raw.get_transaction_status())
        assert connection.execute(sa.text("SHOW lock_timeout")).scalar_one() == "2ms"
    idle, open_ = extensions.TRANSACTION_STATUS_IDLE, extensions.TRANSACTION_STATUS_INTRANS
    assert [*states, raw.get_transaction_status()] == [idle, open_, open_, idle]


@pytest.mark.parametrize(
    "first", ["execute", "bytes", "composed", "executemany", "callproc", "copy"]
)
def test_each_way_to_send_a_first_statement_is_rolled_back(service: sa.Engine, first: str) -> None:
    """Each sends NOTIFY or a row; after a rollback neither is there."""
    sql = "INSERT INTO message_counts (id, messages) VALUES (7, 7)"
    with session.engine().connect() as connection:
        raw: Any = connection.connection.dbapi_connection
        cursor = raw.cursor()
        ways = {
            "execute": lambda: cursor.execute(sql),
            "bytes": lambda: cursor.execute(sql.encode()),
            "composed": lambda: cursor.execute(SQL(sql)),
            "executemany": lambda: cursor.executemany(sql, [()]),
            "callproc": lambda: cursor.callproc("pg_current_xact_id"),
            "copy": lambda: cursor.copy_expert(
                "COPY message_counts FROM STDIN", StringIO("7\t7\n")
            ),
        }
        ways[first]()
        assert raw.get_transaction_status() == extensions.TRANSACTION_STATUS_INTRANS
    with service.begin() as other:
        found = other.execute(sa.text("SELECT 1 FROM message_counts WHERE id = 7")).all()
    assert found == []


def test_a_failed_first_statement_leaves_no_transaction_behind(service: sa.Engine) -> None:
    assert service
    for wrong in ("SELECT 1 / 0", "SELEC"):
        with pytest.raises(sa.exc.DBAPIError), session.transaction() as connection:
            connection.execute(sa.text(wrong))
    with session.transaction() as connection:
        assert connection.execute(sa.text("SELECT 1")).scalar_one() == 1


def test_a_ping_opens_no_transaction(service: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert service
    with session.transaction() as connection:
        connection.execute(sa.text("SELECT 1"))
    monkeypatch.setattr(session, "IDLE_SECONDS", 0)
    with session.engine().connect() as connection:
        raw = connection.connection.dbapi_connection
        assert isinstance(raw, TaskSafeConnection)
        assert raw.get_transaction_status() == extensions.TRANSACTION_STATUS_IDLE


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
