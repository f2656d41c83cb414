"""Which errors mean that PostgreSQL is unavailable, and which connections are discarded."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from backend.db import session, writable
from backend.errors import StoreNotWritable, StoreUnavailable

PID = sa.text("SELECT pg_backend_pid()")


pytestmark = pytest.mark.usefixtures("service")


def fail_with(code: str) -> sa.TextClause:
    return sa.text(f"DO $$ BEGIN RAISE EXCEPTION 'tried' USING ERRCODE = '{code}'; END $$")


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("25006", StoreNotWritable),
        ("53100", StoreNotWritable),
        ("53300", StoreUnavailable),
        ("57P01", StoreUnavailable),
        ("57P03", StoreUnavailable),
        ("08006", StoreUnavailable),
        ("57014", sa.exc.OperationalError),
        ("23505", sa.exc.IntegrityError),
        ("25P02", sa.exc.InternalError),
    ],
)
def test_a_statement_during_an_outage_raises_our_own_error(
    code: str, error: type[Exception]
) -> None:
    # Also in a task's session, where errors are not translated.
    with session.engine().connect() as connection, pytest.raises(error) as raised:
        connection.execute(fail_with(code))
    assert type(raised.value) is error


def test_an_error_of_another_database_is_not_translated(database: sa.Engine) -> None:
    with database.connect() as connection, pytest.raises(sa.exc.OperationalError):
        connection.execute(fail_with("57P01"))


def meet_a_read_only_server() -> int:
    """Get a read-only error on the transaction engine; return the connection's process id."""
    with session.transaction() as connection:
        pid: int = connection.execute(PID).scalar_one()
        connection.execute(sa.text("SET TRANSACTION READ ONLY"))
        with pytest.raises(StoreNotWritable):
            connection.execute(sa.text("DELETE FROM workers"))
        connection.rollback()
    return pid


def test_an_error_of_a_read_only_server_discards_the_connections_of_both_engines() -> None:
    # Several connections, since one of each engine is in use meanwhile.
    with session.transaction() as first, session.autocommit_connection() as second:
        pids = {first.execute(PID).scalar_one(), second.execute(PID).scalar_one()}
        with session.autocommit_connection() as idle:
            pids.add(idle.execute(PID).scalar_one())
        pids.add(meet_a_read_only_server())
    with (
        session.transaction() as first,
        session.autocommit_connection() as second,
        session.autocommit_connection() as third,
    ):
        now = {each.execute(PID).scalar_one() for each in (first, second, third)}
    assert len(pids) == 4
    assert not now & pids


def test_a_write_check_leaves_no_rows(database: sa.Engine) -> None:
    with session.trial() as connection:
        writable.try_insert(connection, writable.LARGE)
        size = sa.text("SELECT octet_length(holds[1]) FROM workers")
        assert connection.execute(size).scalar_one() == writable.LARGE
    with database.connect() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM workers")).scalar_one() == 0
