"""How a connection to PostgreSQL is made: with its limits, or through a pooler without them."""

from __future__ import annotations

import json
import logging
import os
from typing import TYPE_CHECKING, Any

import psycopg2

if TYPE_CHECKING:
    from collections.abc import Sequence

    import sqlalchemy

logger = logging.getLogger(__name__)

# As PostgreSQL shows them.
_SETTINGS = {
    # A statement is short by design; what takes longer waits for something that will not come.
    "statement_timeout": "10s",
    "lock_timeout": "5s",
    # How long a transaction may wait for its client; a task's own may take the task's time limit.
    "idle_in_transaction_session_timeout": "10s",
    "timezone": "UTC",
}
_UNCHECKED_SETTINGS = {
    # psycopg2 sets it where the server's default is another one; RESET ALL would undo that.
    "datestyle": "ISO",
    # The server's side too: a machine that vanished must not keep its locks.
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "10s",
}
NO_LIMITS = {
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
}

# Whether a pooler has refused `options`, and whether this process has checked a connection.
_refused = False
_checked = False


def arguments(name: str, **changed: str) -> dict[str, Any]:
    """Return psycopg2's arguments for a connection with a name; `changed` are other settings."""
    settings = {**_SETTINGS, **_UNCHECKED_SETTINGS, **changed}
    return {
        # PostgreSQL cuts names at 63 bytes.
        "application_name": name[:63],
        "connect_timeout": 3,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 5_000,
        "options": " ".join(f"-c {setting}={value}" for setting, value in settings.items()),
    }


def connect(
    dialect: sqlalchemy.Dialect,
    _record: object,
    positional: Sequence[Any],
    keywords: dict[str, Any],
) -> Any:  # noqa: ANN401 - psycopg2's connection, which is none to SQLAlchemy's types
    """Connect for SQLAlchemy (its event `do_connect`).

    A pooler such as PgBouncer may refuse `options`: this process does without them from then on.
    Its first connection is checked. Raises psycopg2's OperationalError.
    """
    global _refused  # noqa: PLW0603 - what one connection met, the next need not try
    without = {key: value for key, value in keywords.items() if key != "options"}
    try:
        made: Any = dialect.connect(*positional, **(without if _refused else keywords))
    except psycopg2.OperationalError as error:
        if "options" not in str(error):
            raise
        made = dialect.connect(*positional, **without)
        _refused = True
    _check_once(made)
    return made


# current_setting() gives a setting as people write it, 10s.
_CHECK = """
    SELECT current_setting('fsync'), current_setting('synchronous_commit'), (
        SELECT string_agg(
            format('ALTER ROLE %%I IN DATABASE %%I SET %%s = %%L;',
                session_user, current_database(), key, value), ' '
        )
        FROM json_each_text(%s) WHERE current_setting(key) <> value
    )
"""


def _check_once(made: Any) -> None:  # noqa: ANN401 - as above
    """Log what the settings of a process's first connection lack."""
    global _checked  # noqa: PLW0603 - one look a process
    if _checked:
        return
    _checked = True
    try:
        made.autocommit = True
        with made.cursor() as cursor:
            cursor.execute(_CHECK, [json.dumps(_SETTINGS)])
            fsync, synchronous_commit, missing = cursor.fetchone()
        made.autocommit = False
    except psycopg2.Error:
        _checked = False
        made.close()
        raise
    for fault in undurable(fsync, synchronous_commit):
        logger.warning("%s", fault)
    if missing:
        logger.warning(
            "a connection pooler drops the limits of our connections, so the role needs them: run"
            " in PostgreSQL, then reconnect the pooler: %s",
            missing,
        )


def undurable(fsync: str, synchronous_commit: str) -> list[str]:
    """Say, of these settings, which let a crash of PostgreSQL take back an answered 202."""
    crash = "a crash of PostgreSQL may lose tasks that were answered with 202: set"
    faults = []
    if fsync == "off":
        faults.append(f"{crash} fsync = on for the server")
    if synchronous_commit == "off":
        faults.append(f"{crash} synchronous_commit = on for the role, the database or the server")
    return faults


def behind_pooler(connection: sqlalchemy.Connection) -> bool:
    """Return whether a pooler answers in place of PostgreSQL.

    It gives its clients process ids of its own making.
    """
    raw: Any = connection.connection.dbapi_connection
    pid: int = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    return bool(raw.info.backend_pid != pid)


def _leave_the_check_to_the_parent() -> None:
    global _checked  # noqa: PLW0603 - as above
    _checked = True


os.register_at_fork(after_in_child=_leave_the_check_to_the_parent)
