"""The session behind `run.session`: a task writes through it but cannot end its transaction."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import event, text
from sqlalchemy.orm import Session

from backend.db.transaction_policy import TaskSafeConnection, TransactionPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    import sqlalchemy
    from sqlalchemy.orm import SessionTransaction

# Raise the three timeouts to the task's time limit, for this transaction only.
_ALLOW = text(
    """
    SELECT set_config('idle_in_transaction_session_timeout', :limit, true),
        set_config('statement_timeout', :limit, true),
        set_config('lock_timeout', :limit, true), now()
    """
)


class TaskSession(Session):
    """A session on an engine or on a connection; a task may use it inside `lent`.

    `bind`: this process's engine of transactions, or a connection of it. `time_limit`: seconds, for
    a task whose transaction begins with its own first statement. Such a task may change settings;
    `ledger.finish` resets them.
    """

    _raw: TaskSafeConnection | None = None

    def __init__(
        self,
        bind: sqlalchemy.Engine | sqlalchemy.Connection | None,
        time_limit: float | None = None,
        before_begin: Callable[[], None] | None = None,
    ) -> None:
        # After its one transaction it cannot be used again: a task may have kept it.
        super().__init__(bind, expire_on_commit=False, close_resets_only=False)
        self._policy = TransactionPolicy(settings=time_limit is not None)
        self._time_limit = time_limit
        self._before_begin = before_begin
        # Raised by `before_begin`. The task may have caught it, but it must not go on.
        self._begin_error: Exception | None = None
        # now() of the transaction. It identifies the transaction.
        self.began: datetime | None = None
        event.listen(self, "after_begin", self._begun)

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Let the task use the session inside the block, then flush and check it.

        Raises TaskError if the task tried to end the transaction, even if it caught that error;
        StatementFailed if the transaction failed or was rolled back; and what the flush and
        `before_begin` raise.
        """
        self._policy.active = True
        try:
            yield
            if self._begin_error is not None:
                raise self._begin_error
            self.flush()
            self.expunge_all()
        finally:
            self._policy.active = False
        self._policy.check_after(self._status())

    def commit(self) -> None:
        """Commit. Raises TaskError while a task uses the session."""
        self._policy.refuse_while_active("run.session.commit()")
        super().commit()

    def rollback(self) -> None:
        """Roll back. Raises TaskError while a task uses the session."""
        self._policy.refuse_while_active("run.session.rollback()")
        super().rollback()

    def begin(self, nested: bool = False) -> SessionTransaction:  # noqa: FBT001, FBT002 - SQLAlchemy's
        """Begin a transaction, or a savepoint. Raises TaskError unless it is a savepoint."""
        if not nested:
            self._policy.refuse_while_active("run.session.begin()")
        return super().begin(nested)

    def close(self) -> None:
        """Return the connection to the pool. Raises TaskError while a task uses the session."""
        self._policy.refuse_while_active("run.session.close()")
        super().close()

    def reset(self) -> None:
        """Close and start again. Raises TaskError while a task uses the session."""
        self._policy.refuse_while_active("run.session.reset()")
        super().reset()

    def invalidate(self) -> None:
        """Close the connection. Raises TaskError while a task uses the session."""
        self._policy.refuse_while_active("run.session.invalidate()")
        super().invalidate()

    def _status(self) -> int | None:
        """Return libpq's status of the transaction, without asking PostgreSQL; None without one."""
        return None if self._raw is None else int(self._raw.info.transaction_status)

    def _begun(self, _session: object, _: object, connection: sqlalchemy.Connection) -> None:
        """Apply the policy to a transaction's connection; do nothing for a savepoint."""
        if self._raw is not None:
            return
        raw: Any = connection.connection.dbapi_connection
        self._raw = raw
        raw.policy = self._policy
        if raw.autocommit:
            self._policy.refuse_while_active("AUTOCOMMIT")
        if self._before_begin is not None:
            try:
                self._before_begin()
            except Exception as error:
                self._begin_error = error
                raise
        if self._time_limit is not None:
            limit = str(int(self._time_limit * 1000))
            self.began = connection.execute(_ALLOW, {"limit": limit}).one()[3]
