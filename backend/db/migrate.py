"""Brings the schema up to date, once, even if many processes try at the same time."""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy
from sqlalchemy.exc import ProgrammingError

from backend.db import leases
from backend.db.connection import OptionsDropped, database_fault
from backend.db.outage import explain
from backend.db.session import (
    autocommit_connection,
    engine,
    store_errors,
    unlimited,
)
from backend.errors import CannotRun, StoreLocked, StoreNotWritable, StoreUnavailable
from backend.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from alembic.config import Config
    from alembic.runtime.migration import MigrationInfo

logger = logging.getLogger(__name__)

_MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK = 8060  # any number that nothing else locks in this database
# How long another process may take for its migrations, and the pause between two looks.
LOCK_SECONDS = 3600.0
LOCK_PAUSE = 0.2
# How long `upgrade_when_available` waits for a PostgreSQL that is still starting.
AVAILABLE_SECONDS = 60.0
_NOT_ALLOWED = "42501"
_NO_SCHEMA = "3F000"
# What the connection that migrates is called.
_NAME = "tasks-api migrate"


def config() -> Config:
    """Return Alembic's configuration; the project has no alembic.ini."""
    from alembic.config import Config  # noqa: PLC0415 - the API has no use for its 5 MiB

    made = Config()
    made.set_main_option("script_location", str(_MIGRATIONS))
    return made


def upgrade() -> None:
    """Apply the migrations that are missing; log each, or that there was none.

    Raises StoreLocked when a migration could not lock a table within 5 s, or when another process
    has been migrating for LOCK_SECONDS. Raises StoreUnavailable when PostgreSQL is away, and
    SettingsError for a database that cannot be used as it is.
    """
    try:
        _upgrade()
    except ProgrammingError as error:
        if advice := _advice(error):
            raise SettingsError(advice) from error
        raise
    except StoreUnavailable as error:
        cause = getattr(error.__cause__, "orig", error.__cause__)
        if isinstance(cause, OptionsDropped):
            raise SettingsError(explain(cause).line) from error
        raise


def upgrade_when_available(on_wait: Callable[[], None] = lambda: None) -> None:
    """Bring the schema up to date; wait for PostgreSQL, for AVAILABLE_SECONDS at most.

    `on_wait`: called every second of that time. Raises CannotRun when the time is up, and
    SettingsError as `upgrade` does.
    """
    deadline = time.monotonic() + AVAILABLE_SECONDS
    logged = False
    while True:
        try:
            upgrade()
        except StoreUnavailable as error:
            if time.monotonic() > deadline:
                raise CannotRun(_why_not(error)) from error
            if not logged:
                logged = True
                what = "a lock in PostgreSQL" if isinstance(error, StoreLocked) else "PostgreSQL"
                logger.info("waiting for %s at the address in DATABASE_URL", what)
            time.sleep(1)
            on_wait()
        else:
            return


def _why_not(error: StoreUnavailable) -> str:
    """Return in one line why `upgrade` has failed, and what to do."""
    cause = error.__cause__ or error
    why = str(getattr(cause, "orig", None) or cause).split("\n")[0]
    if isinstance(error, StoreLocked):
        return f"another session holds a lock; end it and run `tasks-api migrate` again ({why})"
    if isinstance(error, StoreNotWritable):
        return f"PostgreSQL stores nothing; check DATABASE_URL, and the server's disk ({why})"
    return f"PostgreSQL cannot be reached; check DATABASE_URL ({why})"


def _advice(error: ProgrammingError) -> str | None:
    """Return what to do about an error of the role or the schema; None for any other error."""
    code, diagnosis = getattr(error.orig, "pgcode", None), getattr(error.orig, "diag", None)
    said = getattr(diagnosis, "message_primary", None)
    if code == _NOT_ALLOWED:
        return (
            f"the role in DATABASE_URL may not migrate ({said}); as the schema's owner, run: GRANT"
            " CREATE, USAGE ON SCHEMA public TO the_role; or migrate as the owner of the tables"
        )
    if code == _NO_SCHEMA:
        return (
            f"DATABASE_URL leads to no schema ({said}); as the database's owner, run: CREATE SCHEMA"
            " jobs AUTHORIZATION the_role, with the first name of its search_path"
        )
    return None


def _upgrade() -> None:
    from alembic import command  # noqa: PLC0415 - see config()

    with _locked() as lock:
        if fault := database_fault(lock):
            raise SettingsError(fault)
        # We hold the lock, so any other migration was killed. Its statements may still hold locks.
        leases.break_connections(lock, _NAME)
        with unlimited(_NAME) as connection:
            sqlalchemy.event.listen(connection, "begin", _limit)
            made = config()
            made.attributes["connection"] = connection
            applied: list[str] = []

            def log_applied(*, step: MigrationInfo, **_: object) -> None:
                applied.append(str(step.up_revision_id))
                title = getattr(step.up_revision, "doc", "").rstrip(".")
                logger.info("applied revision %s: %s", step.up_revision_id, title)

            made.attributes["on_version_apply"] = log_applied
            command.upgrade(made, "head")
            if not applied:
                logger.info("the schema is up to date: revision %s", _known()[-1])


@contextmanager
def _locked() -> Iterator[sqlalchemy.Connection]:
    """Yield a connection whose transaction holds the lock of migrations.

    The lock is tried, not waited for: CREATE INDEX CONCURRENTLY waits for every statement that has
    begun before it, so it would deadlock with one that waits for the lock. It does not wait for a
    transaction that is between two statements. Raises StoreLocked after LOCK_SECONDS.
    """
    deadline = time.monotonic() + LOCK_SECONDS
    said = False
    with store_errors(), engine().connect() as connection:
        while not connection.exec_driver_sql(
            "SET LOCAL idle_in_transaction_session_timeout = 0;"
            f" SELECT pg_try_advisory_xact_lock({_LOCK})"
        ).scalar():
            connection.rollback()
            if time.monotonic() > deadline:
                raise StoreLocked("another process has been migrating for an hour")
            if not said:
                said = True
                logger.info("another process migrates: waiting until it has ended")
            time.sleep(LOCK_PAUSE)
        yield connection


def _limit(connection: sqlalchemy.Connection) -> None:
    """Set the limits of a migration's transaction, in place of the role's.

    While it waits for a table's lock, all later requests for that lock wait too.
    """
    connection.exec_driver_sql("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '5s'")


def _known() -> list[str]:
    return sorted(file.name[:4] for file in _MIGRATIONS.glob("versions/[0-9]*.py"))


def current() -> bool:
    """Return whether the database has every migration that this version knows.

    An unknown revision belongs to a newer version, which includes all of ours.
    """
    known = _known()
    with autocommit_connection() as connection:
        there = sqlalchemy.text("SELECT to_regclass('alembic_version') IS NOT NULL")
        if not connection.execute(there).scalar():
            return False
        heads = connection.execute(sqlalchemy.text("SELECT version_num FROM alembic_version"))
        return any(head == known[-1] or head not in known for head in heads.scalars())
