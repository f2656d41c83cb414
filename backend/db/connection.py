"""Connects to PostgreSQL: with time limits, or through a pooler without them."""

from __future__ import annotations

import json
import logging
import os
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import psycopg2
import sqlalchemy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from backend.db.session import Executor

logger = logging.getLogger(__name__)

# As PostgreSQL shows them.
_SETTINGS = {
    # Our statements are short. One that takes longer is stuck.
    "statement_timeout": "10s",
    "lock_timeout": "5s",
    # How long a transaction may wait for its client; a task's own may take the task's time limit.
    "idle_in_transaction_session_timeout": "10s",
    "timezone": "UTC",
}
_UNCHECKED_SETTINGS = {
    # psycopg2 sets it where the server's default is another one; RESET ALL would undo that.
    "datestyle": "ISO",
    # For the server too: it must not keep the locks of a client machine that has vanished.
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

# Sent with the options of DATABASE_URL. If a connection lacks it, a pooler has dropped all options.
_MARK = "tasks_api.options"

# Whether a pooler has refused `options`, and whether this process has checked a connection.
_refused = False
_checked = False
# Whether the database can store every text; set by that check.
every_text_fits = True


class OptionsDropped(psycopg2.OperationalError):
    """A pooler drops the options in DATABASE_URL, such as a search_path."""

    def __init__(self) -> None:
        super().__init__("a connection pooler drops its options")


def arguments(
    url: sqlalchemy.URL, name: str, changed: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Any]:
    """Return psycopg2's arguments for a connection with a name, in addition to the URL's.

    `changed` replaces some of our settings. The URL's parameters have priority over ours, and its
    options are added to ours; urls.py refuses those that we must set.
    """
    settings = {**_SETTINGS, **_UNCHECKED_SETTINGS, **changed}
    if "options" in url.query:
        settings[_MARK] = "on"
    options = [f"-c {setting}={value}" for setting, value in settings.items()]
    ours = {
        # PostgreSQL cuts names at 63 bytes.
        "application_name": name[:63],
        "connect_timeout": 3,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 5_000,
        # Not the default of the role or the database, which may not hold every text.
        "client_encoding": "utf8",
    }
    given = {name: value for name, value in ours.items() if name not in url.query}
    return {**given, "options": " ".join([*options, str(url.query.get("options", ""))])}


def connect(
    dialect: sqlalchemy.Dialect,
    _record: object,
    positional: Sequence[Any],
    keywords: dict[str, Any],
) -> Any:  # noqa: ANN401 - psycopg2's connection, unknown to SQLAlchemy's types
    """Connect for SQLAlchemy (its event `do_connect`).

    A pooler such as PgBouncer may refuse `options`: from then on this process connects without
    them. Its first connection is checked. Raises psycopg2's OperationalError. Raises OptionsDropped
    if options in DATABASE_URL are dropped: without a search_path we would use other tables.
    """
    global _refused  # noqa: PLW0603 - what one connection met, the next need not try
    without = {key: value for key, value in keywords.items() if key != "options"}
    needed = _MARK in keywords["options"]
    try:
        made: Any = dialect.connect(*positional, **(without if _refused else keywords))
    except psycopg2.OperationalError as error:
        if "options" not in str(error):
            raise
        if needed:
            raise OptionsDropped from error
        made = dialect.connect(*positional, **without)
        _refused = True
    _check(made, needed=needed)
    return made


@cache
def log_once(text: str) -> None:
    """Log an error, each text once in this process."""
    logger.error("%s", text)


# current_setting() gives a setting as people write it, 10s.
_CHECK = """
    SELECT current_setting('fsync'), current_setting('synchronous_commit'),
        current_setting(%s, true), (
        SELECT string_agg(
            format('ALTER ROLE %%I IN DATABASE %%I SET %%s = %%L;',
                session_user, current_database(), key, value), ' '
        )
        FROM json_each_text(%s) WHERE current_setting(key) <> value
    )
"""


def _check(made: Any, *, needed: bool) -> None:  # noqa: ANN401 - as above
    """Check the settings of a process's first connection, and log what is missing.

    If `needed`, check every connection: raises OptionsDropped if it lacks DATABASE_URL's options.
    """
    global _checked, every_text_fits  # noqa: PLW0603 - one look a process
    first = not _checked
    if not (first or needed):
        return
    _checked = True
    try:
        made.autocommit = True
        with made.cursor() as cursor:
            cursor.execute(_CHECK, [_MARK, json.dumps(_SETTINGS)])
            fsync, synchronous_commit, mark, missing = cursor.fetchone()
        if needed and not mark:
            raise OptionsDropped
        made.autocommit = False
    except psycopg2.Error:
        _checked = not first
        made.close()
        raise
    if not first:
        return
    every_text_fits = not encoding_fault(made.get_parameter_status("server_encoding"))
    for fault in undurable(fsync, synchronous_commit):
        logger.warning("%s", fault)
    if missing:
        logger.warning(
            "a connection pooler drops the limits of our connections, so the role needs them: run"
            " in PostgreSQL, then reconnect the pooler: %s",
            missing,
        )


def undurable(fsync: str, synchronous_commit: str) -> list[str]:
    """Return a line for each setting with which a crash of PostgreSQL may lose accepted tasks."""
    crash = "a crash of PostgreSQL may lose tasks that were answered with 202: set"
    faults = []
    if fsync == "off":
        faults.append(f"{crash} fsync = on for the server")
    if synchronous_commit == "off":
        faults.append(f"{crash} synchronous_commit = on for the role, the database or the server")
    return faults


def durability_faults(connection: Executor) -> list[str]:
    """Return a line for each setting with which a crash of PostgreSQL may lose accepted tasks."""
    asked = "SELECT current_setting('fsync'), current_setting('synchronous_commit')"
    return undurable(*connection.execute(sqlalchemy.text(asked)).one())


def database_fault(connection: Executor) -> str | None:
    """Return what to do if the database cannot store every text, else None."""
    encoding = connection.execute(sqlalchemy.text("SHOW server_encoding")).scalar_one()
    return encoding_fault(encoding)


def encoding_fault(encoding: str) -> str | None:
    """Return what to do if a database with this encoding cannot store every text, else None."""
    if encoding == "UTF8":
        return None
    return (
        f"the database has the encoding {encoding}, which cannot hold every text: make one with"
        " CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0, and name it in DATABASE_URL"
    )


def behind_pooler(connection: sqlalchemy.Connection) -> bool:
    """Return whether a pooler answers in place of PostgreSQL.

    A pooler invents the process ids that it sends to its clients.
    """
    raw: Any = connection.connection.dbapi_connection
    pid: int = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    return bool(raw.info.backend_pid != pid)


def _leave_the_check_to_the_parent() -> None:
    global _checked  # noqa: PLW0603 - as above
    _checked = True


os.register_at_fork(after_in_child=_leave_the_check_to_the_parent)
