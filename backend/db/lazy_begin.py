"""Sends BEGIN together with the first statement of a transaction, which saves a round trip.

psycopg2 sends BEGIN alone and waits for the answer. In a lazy transaction psycopg2 is in
autocommit; here the cursor begins, and the connection commits and rolls back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg2 import extensions

if TYPE_CHECKING:
    from collections.abc import Callable

    import sqlalchemy


class LazyBeginCursor(extensions.cursor):
    """A cursor that begins lazy transactions."""

    connection: LazyBeginConnection

    def execute(self, query: Any, vars: Any = None) -> None:  # noqa: A002, ANN401 - psycopg2's
        """Execute a statement; it is a text if it is the first one of a lazy transaction."""
        if self.connection.lazy and self.connection.is_idle():
            query = f"BEGIN;{query}"
        super().execute(query, vars)


class LazyBeginConnection(extensions.connection):
    """A connection whose transactions may be lazy.

    A lazy one is for statements of ours: server-side cursors, COPY, large objects, `executemany`
    and `callproc` need psycopg2's own transactions.
    """

    lazy = False

    def set_lazy(self, lazy: bool) -> None:  # noqa: FBT001 - like psycopg2's
        """Choose whether the next transactions are lazy. None may be open."""
        self.autocommit = self.lazy = lazy

    def is_idle(self) -> bool:
        """Return whether no transaction is open."""
        return self.get_transaction_status() == extensions.TRANSACTION_STATUS_IDLE

    def commit(self) -> None:
        """Commit the open transaction, if there is one."""
        self._end("COMMIT", super().commit)

    def rollback(self) -> None:
        """Roll back the open transaction, if there is one."""
        self._end("ROLLBACK", super().rollback)

    def _end(self, word: str, end_by_psycopg2: Callable[[], None]) -> None:
        if not self.lazy:
            end_by_psycopg2()
        elif not self.is_idle():
            with extensions.cursor(self) as cursor:
                cursor.execute(word)


def connection_of(engine: sqlalchemy.Engine, *, lazy: bool) -> sqlalchemy.Connection:
    """Return a connection whose transactions are lazy or not, until it goes back to its pool."""
    connection = engine.connect()
    if lazy:
        raw: Any = connection.connection.dbapi_connection
        raw.set_lazy(True)
    return connection
