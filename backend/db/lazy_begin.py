"""Sends BEGIN together with the first statement of a transaction, which saves a round trip.

psycopg2 sends BEGIN alone and waits for the answer. Here psycopg2 is in autocommit, and this module
begins, commits and rolls back. SQLAlchemy notices no difference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg2 import extensions
from psycopg2.sql import SQL, Composable

if TYPE_CHECKING:
    from collections.abc import Callable

_BEGIN = "BEGIN;"


class LazyBeginCursor(extensions.cursor):
    """A cursor whose first statement begins the transaction."""

    connection: LazyBeginConnection

    def execute(self, query: Any, vars: Any = None) -> None:  # noqa: A002, ANN401 - psycopg2's
        """Execute a statement, in a transaction."""
        if self.connection.must_begin():
            if isinstance(query, Composable):
                query = SQL(_BEGIN) + query
            else:
                query = (_BEGIN.encode() if isinstance(query, bytes) else _BEGIN) + query
        super().execute(query, vars)

    def callproc(self, name: Any, parameters: Any = None) -> Any:  # noqa: ANN401 - psycopg2's
        """Call a function of PostgreSQL's, in a transaction."""
        self.connection.begin()
        return super().callproc(name, parameters)

    def executemany(self, query: Any, vars_list: Any) -> None:  # noqa: ANN401 - psycopg2's
        """Execute a statement for each of the parameters, in a transaction."""
        self.connection.begin()
        super().executemany(query, vars_list)

    def copy_expert(self, sql: Any, file: Any, size: int = 8192) -> None:  # noqa: ANN401 - same
        """Execute a COPY, in a transaction."""
        self.connection.begin()
        super().copy_expert(sql, file, size)


class LazyBeginConnection(extensions.connection):
    """A connection that begins a transaction with its first statement, once `lazy` is true.

    Server-side cursors need psycopg2's own transactions: use `leave_to_psycopg2` before the first
    statement. Without it, a cursor with a name reads all rows at once.
    """

    lazy = False

    def begin_lazily(self) -> None:
        """Begin the next transactions with their first statement. None may be open."""
        self.autocommit = True
        self.lazy = True

    def leave_to_psycopg2(self) -> None:
        """Let psycopg2 begin the next transactions, unless one is open."""
        if self.must_begin():
            self.autocommit = False
            self.lazy = False

    def must_begin(self) -> bool:
        """Return whether the next statement is the first one of a transaction."""
        return self.lazy and self._is_idle()

    def begin(self) -> None:
        """Begin a transaction, unless one is open."""
        if self.must_begin():
            self._execute("BEGIN")

    def cursor(self, name: Any = None, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - psycopg2's
        """Return a cursor; in a lazy transaction a name is ignored."""
        return super().cursor(None if self.lazy else name, *args, **options)

    def commit(self) -> None:
        """Commit the open transaction, if there is one."""
        self._end("COMMIT", super().commit)

    def rollback(self) -> None:
        """Roll back the open transaction, if there is one."""
        self._end("ROLLBACK", super().rollback)

    def ping(self) -> None:
        """Make a round trip that begins no transaction."""
        self._execute("SELECT 1")

    def set_isolation_level(self, level: int | None) -> None:
        """Roll back, and choose the level of the next transactions, which psycopg2 then begins."""
        LazyBeginConnection.rollback(self)
        self.lazy = False
        super().set_isolation_level(level)

    def _end(self, word: str, end_by_psycopg2: Callable[[], None]) -> None:
        if not self.lazy:
            end_by_psycopg2()
        elif not self._is_idle():
            self._execute(word)

    def _is_idle(self) -> bool:
        return self.get_transaction_status() == extensions.TRANSACTION_STATUS_IDLE

    def _execute(self, sql: str) -> None:
        with extensions.cursor(self) as cursor:
            cursor.execute(sql)
