"""Access to PostgreSQL: the engines of this process, transactions, and one error."""

from __future__ import annotations

import math
import os
import time
from contextlib import contextmanager
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import psycopg2
import sqlalchemy
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, DisconnectionError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from backend.db import connection as connections
from backend.db.connection import NO_LIMITS, arguments, connect
from backend.db.lazy_begin import connection_of
from backend.db.outage import explain, postgresql_outage
from backend.db.transaction_policy import TaskSafeConnection, note_use
from backend.errors import StoreLocked, StoreNotWritable, StoreUnavailable, TextNotStorable
from backend.settings import database_url, settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from sqlalchemy.engine import ExceptionContext
    from sqlalchemy.pool import ConnectionPoolEntry

Executor = sqlalchemy.Connection | Session

# Undefined table, undefined column: `tasks-api migrate` is still to be run.
_NOT_MIGRATED = {"42P01", "42703"}
# The database's encoding lacks the character, or it is SQL_ASCII, which converts nothing.
_NO_SUCH_CHARACTER = {"22P05", "0A000"}
_READ_ONLY = "25006"
_LOCK_NOT_AVAILABLE = "55P03"
# PostgreSQL has ended a transaction in which nothing happened for too long, and the connection.
_IDLE_TOO_LONG = "25P03"
# SQLSTATEs of a PostgreSQL that answers but stores nothing, and the texts for clients.
_NOT_WRITABLE = {
    _READ_ONLY: "The task store is read-only at the moment. Nothing was stored; try again shortly.",
    "53100": "The task store's disk is full. Nothing was stored; try again shortly.",
}
_AWAY = (
    OperationalError,
    InterfaceError,
    PoolTimeoutError,
    psycopg2.OperationalError,
    psycopg2.InterfaceError,
)


# Begins a statement that needs the first rows of an index in its order. After a burst of new rows
# the planner's statistics are old: it would fetch all rows with a bitmap scan and sort them. The
# setting lasts until the transaction ends, so do not use it in a task's own transaction.
IN_INDEX_ORDER = "SET LOCAL enable_bitmapscan = off;"

# A connection that was used within this time is not pinged. A ping costs a round trip, which under
# load is half of a statement's time.
IDLE_SECONDS = 1.0


_name = "tasks-api"


def identify(name: str) -> None:
    """Name the connections of this process and its children; call this before the first one."""
    global _name  # noqa: PLW0603 - one name a process
    _name = name


def connection_name() -> str:
    """Return the application_name of this process's connections."""
    return _name[:63]


@cache
def engine() -> sqlalchemy.Engine:
    """Return this process's engine for transactions; it connects when first needed."""
    return _engine()


@cache
def autocommit() -> sqlalchemy.Engine:
    """Return the engine for single statements.

    It has its own connections: to switch one to autocommit and back costs more than the statement.
    """
    return _engine(isolation_level="AUTOCOMMIT", pool_reset_on_return=None)


# In a worker of threads: how many attempts use `run.session` at once, and how long others wait.
SESSIONS = 20
SESSION_TIMEOUT = 600


@cache
def session_engine() -> sqlalchemy.Engine:
    """Return the engine of `run.session`. In a worker of threads it has its own connections."""
    if settings().worker_pool == "processes":
        return engine()
    return _engine(pool_size=SESSIONS, max_overflow=0, pool_timeout=SESSION_TIMEOUT)


@cache
def lease_engine() -> sqlalchemy.Engine:
    """Return the engine of a worker's lease. In a worker of threads it has its own connections.

    In a worker of processes it is made before the first process is forked (lease.py).
    """
    return engine() if settings().worker_pool == "processes" else _engine(pool_size=1)


def _engine(
    name: str = "", changed: Mapping[str, str] = MappingProxyType({}), **options: Any
) -> sqlalchemy.Engine:
    url = sqlalchemy.make_url(database_url())
    made = sqlalchemy.create_engine(
        url,
        # An error's text goes to logs and to Flower, so it must not have a statement's parameters.
        hide_parameters=True,
        connect_args={
            "connection_factory": TaskSafeConnection,
            **arguments(url, name or _name, changed),
        },
        **{"pool_timeout": 3, **options},
    )
    event.listen(made, "do_connect", connect)
    event.listen(made, "checkin", note_use)
    event.listen(made, "checkout", _ping_after_idling)
    event.listen(made, "handle_error", _raise_if_away)
    return made


def _ping_after_idling(connection: Any, record: ConnectionPoolEntry, _: object) -> None:  # noqa: ANN401 - psycopg2's
    if time.monotonic() - record.info.get("used_at", math.inf) < IDLE_SECONDS:
        return
    try:
        engine().dialect.do_ping(connection)
    except _AWAY as error:
        # The pool answers by making another connection.
        raise DisconnectionError from error


def _raise_if_away(context: ExceptionContext) -> None:
    """Raise StoreUnavailable for "PostgreSQL is away", in the statements of a task too.

    So the error differs from one of another database that the task uses.
    """
    if _sqlstate(context.original_exception) == _READ_ONLY:
        # This server, or only this session, is read-only: a new connection may reach one that
        # writes. Drop those of the other pool as well: they may read from a server that was
        # demoted, where reading never fails.
        context.is_disconnect = True
        for made in _engines():
            made.dispose()
    if is_away(context.original_exception):
        raise _unavailable(context.original_exception)


_MADE = (engine, autocommit, session_engine, lease_engine)


def _engines() -> list[sqlalchemy.Engine]:
    """Return the engines that this process has made."""
    return [made() for made in _MADE if made.cache_info().currsize]


def _forget_engines_after_fork() -> None:
    """Leave the parent's connections to the parent: sharing one corrupts it for both."""
    for made in _engines():
        made.dispose(close=False)
    for cached in _MADE:
        cached.cache_clear()


os.register_at_fork(after_in_child=_forget_engines_after_fork)


def _sqlstate(error: BaseException) -> str | None:
    """Return PostgreSQL's code of an error, psycopg2's or SQLAlchemy's; None if it has none."""
    code: str | None = getattr(getattr(error, "orig", error), "pgcode", None)
    return code


def is_away(error: BaseException) -> bool:
    """Return whether an error means that PostgreSQL or the connection is lost or stores nothing.

    A healthy server raises the same class of error for a statement that took too long, waited too
    long for a lock or met a deadlock; only the SQLSTATE differs.
    """
    code = _sqlstate(error)
    if code is None:
        return isinstance(error, (StoreUnavailable, *_AWAY))
    return code in _NOT_WRITABLE or code.startswith(("08", "57P", "53300"))


def _unavailable(error: BaseException) -> StoreUnavailable:
    """Return the error for clients, and log the reason. A lock is not an outage."""
    code = _sqlstate(error) or ""
    if code == _IDLE_TOO_LONG:
        return StoreUnavailable()
    if code == _LOCK_NOT_AVAILABLE:
        return StoreLocked(
            "The task store is locked by another session. Nothing was stored; try again shortly."
        )
    postgresql_outage.failed(explain(error))
    detail = _NOT_WRITABLE.get(code)
    return StoreNotWritable(detail) if detail else StoreUnavailable()


@contextmanager
def store_errors() -> Iterator[None]:
    """Raise StoreUnavailable if PostgreSQL is away, too slow, not migrated or met a deadlock.

    Raises StoreNotWritable if it answers but stores nothing, StoreLocked after waiting for a lock,
    and TextNotStorable for a text that the database's encoding lacks. Other errors are not changed.
    """
    try:
        yield
    except (*_AWAY, DBAPIError) as error:
        if _sqlstate(error) in _NO_SUCH_CHARACTER and not connections.every_text_fits:
            unfit = TextNotStorable()
            connections.log_once(str(unfit))
            raise unfit from error
        answers = {*_NOT_MIGRATED, *_NOT_WRITABLE, _IDLE_TOO_LONG}
        known = isinstance(error, _AWAY) or _sqlstate(error) in answers
        if not known:
            raise
        raise _unavailable(error) from error
    if postgresql_outage.failing:
        postgresql_outage.succeeded()


@contextmanager
def transaction(
    *,
    lock_seconds: float | None = None,
    of: Callable[[], sqlalchemy.Engine] = engine,
    lazy: bool = False,
) -> Iterator[sqlalchemy.Connection]:
    """Yield a connection in a transaction that commits at the end of the block.

    `lock_seconds`: how long it waits for a lock, if not the usual 5 s; then it raises StoreLocked.
    `of`: returns the engine. `lazy`: BEGIN goes with the first statement (lazy_begin.py).
    Raises StoreUnavailable when PostgreSQL is away. If the connection broke during the commit, the
    commit may have happened; every statement of the ledger allows for both.
    """
    with store_errors(), connection_of(of(), lazy=lazy) as connection, connection.begin():
        if lock_seconds is not None:
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = {int(lock_seconds * 1000)}")
        yield connection


@contextmanager
def trial(*, lazy: bool = False) -> Iterator[sqlalchemy.Connection]:
    """Yield a connection in a transaction that is rolled back at the end of the block.

    `lazy` and errors: as for `transaction`.
    """
    with store_errors(), connection_of(engine(), lazy=lazy) as connection:
        yield connection


@contextmanager
def autocommit_connection() -> Iterator[sqlalchemy.Connection]:
    """Yield a connection on which each statement is a transaction: one round trip, not three.

    Raises StoreUnavailable as `transaction` does.
    """
    with store_errors(), autocommit().connect() as connection:
        yield connection


@contextmanager
def unlimited(name: str) -> Iterator[sqlalchemy.Connection]:
    """Yield a new connection with a name and without time limits: a large index takes long.

    Through a pooler it has the role's limits. Raises StoreUnavailable as `transaction` does.
    """
    made = _engine(name, NO_LIMITS)
    try:
        with store_errors(), made.connect() as connected:
            yield connected
    finally:
        made.dispose()


def changed_rows(result: sqlalchemy.Result[Any]) -> int:
    """Return how many rows a statement changed."""
    count: int = cast("sqlalchemy.CursorResult[Any]", result).rowcount
    return count
