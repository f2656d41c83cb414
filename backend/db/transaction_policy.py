"""Keeps a task from ending the transaction that its outcome is part of.

A task's session, the connection below it and every cursor of that connection ask the same policy.
It remembers what it has refused, so a task that catches the error does not succeed.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

from psycopg2 import extensions
from psycopg2.sql import Composable

from backend.db.lazy_begin import LazyBeginConnection, LazyBeginCursor
from backend.errors import StatementFailed, TaskError

if TYPE_CHECKING:
    from sqlalchemy.pool import ConnectionPoolEntry

ENDED = "The task ended the transaction that its outcome is part of"
FORKED = (
    "run.session cannot be used in another process;"
    " use `with transaction() as connection:` from backend.db.session there"
)
ADVICE = "put what may fail into `with run.session.begin_nested():`"
# A longer text of SQL is scanned each time: the cache must not hold megabytes.
CACHED_LENGTH = 10_000


@dataclass
class TransactionPolicy:
    """What a task's transaction allows, and what has happened to it.

    active: the task's function is running. settings: it may change settings of its connection.
    discard_connection: the connection must be closed, not reused: it may hold a lock or a temporary
    table.
    """

    settings: bool
    active: bool = False
    discard_connection: bool = False
    rolled_back: bool = False
    refused: TaskError | None = None
    _pid: int = field(default_factory=os.getpid)

    @property
    def in_fork(self) -> bool:
        """Return whether this process was forked by the one whose transaction it is."""
        return os.getpid() != self._pid

    def refuse_while_active(self, what: str) -> None:
        """Raise TaskError while the task's function runs.

        `what`: the call or statement, for the error's text.
        """
        if self.active:
            self._refuse(
                f"{what}: a task cannot end the transaction that its outcome is part of; {ADVICE}"
            )

    def check_sql(self, sql: str) -> None:
        """Raise TaskError for SQL that would end the transaction, or changes settings.

        In a forked process, raise it for any SQL: two processes cannot share a connection.
        """
        if self.in_fork:
            self._refuse(FORKED)
        found = _scan(sql) if len(sql) <= CACHED_LENGTH else _scan.__wrapped__(sql)
        if found.ends:
            self.refuse_while_active(found.ends)
        if found.sets and not self.settings:
            self._refuse(
                f"{found.sets}: a task of one commit cannot change settings, because other tasks"
                " share its transaction"
            )
        self.discard_connection |= found.outlasts

    def check_after(self, status: int | None) -> None:
        """Check the transaction after the task's function has returned.

        `status`: libpq's status of the transaction, None if none has begun. Raises TaskError if
        something was refused or the transaction has ended, StatementFailed if it has failed or was
        rolled back.
        """
        if self.refused is not None:
            raise self.refused
        if self.rolled_back or status == extensions.TRANSACTION_STATUS_INERROR:
            raise StatementFailed(f"The task went on after a statement that had failed; {ADVICE}")
        if status not in (None, extensions.TRANSACTION_STATUS_INTRANS):
            raise TaskError(ENDED)

    def _refuse(self, text: str) -> NoReturn:
        self.refused = TaskError(text)
        # SQLAlchemy may treat the refused transaction as ended and not roll it back.
        self.discard_connection = True
        raise self.refused


class TaskSafeCursor(LazyBeginCursor):
    """A cursor that asks the policy before each statement."""

    connection: TaskSafeConnection

    def execute(self, query: Any, vars: Any = None) -> None:  # noqa: A002, ANN401 - psycopg2's
        """Execute a statement. Raises TaskError."""
        self._check(query)
        super().execute(query, vars)

    def executemany(self, query: Any, vars_list: Any) -> None:  # noqa: ANN401 - psycopg2's
        """Execute a statement for each of the parameters. Raises TaskError."""
        self._check(query)
        super().executemany(query, vars_list)

    def copy_expert(self, sql: Any, file: Any, size: int = 8192) -> None:  # noqa: ANN401 - same
        """Execute a COPY. Raises TaskError."""
        self._check(sql)
        super().copy_expert(sql, file, size)

    def callproc(self, name: Any, parameters: Any = ()) -> Any:  # noqa: ANN401 - psycopg2's
        """Call a function of PostgreSQL's. Raises TaskError."""
        self._check(f"SELECT {name}()")
        return super().callproc(name, parameters)

    def _check(self, sql: Any) -> None:  # noqa: ANN401 - str, bytes or Composable
        policy = self.connection.policy
        if policy is None or not policy.active:
            return
        if isinstance(sql, Composable):
            sql = sql.as_string(self)
        policy.check_sql(sql.decode("utf-8", "replace") if isinstance(sql, bytes) else str(sql))


class TaskSafeConnection(LazyBeginConnection):
    """A connection that asks the policy of the task that uses it, if a task does."""

    policy: TransactionPolicy | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.cursor_factory = TaskSafeCursor

    def cursor(  # type: ignore[override]  # overloaded in the stubs
        self,
        name: Any = None,  # noqa: ANN401 - psycopg2's
        cursor_factory: Any = None,  # noqa: ANN401 - the same
        **options: Any,
    ) -> Any:  # noqa: ANN401 - the same
        """Return a cursor that asks the policy, of a class that a task may have chosen."""
        if cursor_factory is None:
            return super().cursor(name, **options)
        safe = type(cursor_factory.__name__, (TaskSafeCursor, cursor_factory), {})
        return super().cursor(name, safe, **options)

    def commit(self) -> None:
        """Commit. Raises TaskError."""
        self._refuse_while_active("commit")
        super().commit()

    def rollback(self) -> None:
        """Roll back and record it; do nothing in a forked process.

        It is not refused, because SQLAlchemy itself rolls back when a flush fails.
        """
        if self.policy is not None and self.policy.active:
            if self.policy.in_fork:
                return
            self.policy.rolled_back = True
        super().rollback()

    def close(self) -> None:
        """Close the connection, unless it belongs to the process that has forked this one."""
        if self.policy is None or not self.policy.in_fork:
            super().close()

    # The three below roll back, inside psycopg2.

    def reset(self) -> None:
        """Return to the state of a new connection. Raises TaskError."""
        self._refuse_while_active("reset")
        super().reset()

    def set_isolation_level(self, level: int | None) -> None:
        """Choose the level of the next transactions. Raises TaskError."""
        self._refuse_while_active("set_isolation_level")
        super().set_isolation_level(level)

    def set_client_encoding(self, encoding: str) -> None:
        """Change the encoding. Raises TaskError."""
        self._refuse_while_active("set_client_encoding")
        super().set_client_encoding(encoding)

    def _refuse_while_active(self, what: str) -> None:
        if self.policy is not None:
            self.policy.refuse_while_active(what)


@dataclass(frozen=True, slots=True)
class _Found:
    """What a text of SQL does.

    ends, sets: the words that end the transaction or change settings, if there are any. outlasts:
    it may leave something in the connection.
    """

    ends: str = ""
    sets: str = ""
    outlasts: bool = False


# Atomic groups and possessive quantifiers: no text takes exponential time or deep recursion.
_BEFORE_KEYWORD = r"(?:\s++|\()*+"
_ENDS = re.compile(
    rf"{_BEFORE_KEYWORD}((?:BEGIN|COMMIT|END|ABORT|START\s+TRANSACTION|PREPARE\s+TRANSACTION"
    r"|SET\s+TRANSACTION|ROLLBACK(?!\s+(?:WORK\s+|TRANSACTION\s+)?TO\b))\b)",
    re.IGNORECASE | re.DOTALL,
)
_SETS = re.compile(rf"{_BEFORE_KEYWORD}((?:SET|RESET|DISCARD)\b)", re.IGNORECASE | re.DOTALL)
_SETS_BY_FUNCTION = re.compile(r"\b(set_config)\s*\(", re.IGNORECASE)
# What leaves state that survives both a commit and RESET ALL.
_OUTLASTS_TRANSACTION = re.compile(
    rf"{_BEFORE_KEYWORD}(?:PREPARE|LISTEN|LOAD|SET\s+(?:LOCAL\s+|SESSION\s+)?SESSION\s+AUTH)"
    r"|.*?\b(?:(?:CREATE|REPLACE|INTO|GLOBAL|LOCAL)\s+TEMP(?:ORARY)?\b|WITH\s+HOLD\b|pg_temp\s*\."
    r"|pg_(?:try_)?advisory_lock(?:_shared)?\s*\()",
    re.IGNORECASE | re.DOTALL,
)
# Comments nest. The pattern removes the inner part; the rest ends with `*/`.
_END_OF_STATEMENT = re.compile(r";|\*/")
# Comments, and quoted text: a semicolon in them does not end a statement.
_COMMENTS_AND_QUOTED = re.compile(
    r"""(?P<comment>--[^\n]*+ | /\*.*?(?:\*/|\Z)) | \bE'(?:[^'\\]++|\\.|'')*+(?:'|\Z)
    | '(?:[^']++|'')*+(?:'|\Z) | "(?:[^"]++|"")*+(?:"|\Z) | (?<![\w$])\$(\w*+)\$.*?(?:\$\2\$|\Z)""",
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)


@lru_cache(maxsize=256)
def _scan(sql: str) -> _Found:
    """Return what a text of SQL does; it may hold several statements."""
    bare = _COMMENTS_AND_QUOTED.sub(lambda found: " " if found["comment"] else "''", sql)
    ends = sets = outlasts = None
    for statement in _END_OF_STATEMENT.split(bare):
        ends = ends or _ENDS.match(statement)
        sets = sets or _SETS.match(statement) or _SETS_BY_FUNCTION.search(statement)
        outlasts = outlasts or _OUTLASTS_TRANSACTION.match(statement)
    return _Found(ends[1].upper() if ends else "", sets[1] if sets else "", outlasts is not None)


def note_use(connection: TaskSafeConnection | None, record: ConnectionPoolEntry) -> None:
    """Record when a connection came back; close it if a task has left something in it.

    Its next transaction is not lazy, unless it asks for that.
    """
    record.info["used_at"] = time.monotonic()
    if connection is None:
        return
    if connection.lazy:
        connection.set_lazy(False)
    if connection.policy is None:
        return
    policy, connection.policy = connection.policy, None
    if policy.discard_connection:
        record.invalidate()
