"""Ends of attempts that the parent process notices and no child reports.

A lost child, a time limit, a revoke. The lease's thread records them, since the parent's event loop
must not wait for PostgreSQL.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from celery.exceptions import WorkerLostError

from backend.broker.app import app
from backend.db import ledger, locked
from backend.db.records import TaskRecord
from backend.db.session import transaction
from backend.loop import start_thread
from backend.states import RETRY, REVOKED
from backend.telemetry.logs import about
from backend.worker.failures import backoff, error_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backend.broker.wire import Delivery

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """An attempt whose child was lost or killed, or that no child could be sent."""

    delivery: Delivery
    worker: str
    error: BaseException

    def record(self) -> None:
        """Write the ledger; reply if that ended the task. Raises StoreUnavailable."""
        delivery, error = self.delivery, error_text(self.error)
        # A lost process is no reason to wait; a task that takes too long is.
        lost = isinstance(self.error, WorkerLostError)
        delay = 0.0 if lost else backoff(delivery.attempt)
        with transaction() as connection:
            state = locked.fail(
                connection, delivery.id, delivery.attempt, error, self.worker, delay=delay
            )
        if state is None:
            return
        logger.warning("%s: %s", state, error, extra=about(delivery.id, delivery.attempt))
        if state != RETRY:
            _reply(delivery, TaskRecord(delivery.id, state=state, error=error))


@dataclass(frozen=True)
class LostBatch:
    """Attempts, by task id, that shared a child which was lost. None of them has started."""

    attempts: Mapping[str, int]

    def record(self) -> None:
        """Reschedule the tasks; each runs alone. Raises StoreUnavailable."""
        with transaction() as connection:
            locked.lock(connection, self.attempts)
            again = ledger.reschedule(connection, self.attempts, None, waiting=True, free=True)
        logger.warning(
            "a process was lost; of its short tasks (%d) run again, alone: %d",
            len(self.attempts),
            len(again),
        )


@dataclass(frozen=True)
class Revoke:
    """A revoke. Without a delivery it ends the task only if the task is waiting."""

    task_id: str
    reason: str
    delivery: Delivery | None = None

    def record(self) -> None:
        """Write the ledger, reply if that ended the task. Raises StoreUnavailable."""
        error = error_text(self.reason)
        attempt = self.delivery.attempt if self.delivery else None
        with transaction() as connection:
            ended = locked.revoke(connection, self.task_id, error, attempt)
        if ended is None:
            return
        logger.warning("REVOKED: %s", error, extra=about(self.task_id, ended))
        if self.delivery:
            _reply(self.delivery, TaskRecord(self.task_id, state=REVOKED, error=error))


def _reply(delivery: Delivery, outcome: TaskRecord) -> None:
    """Reply in a thread: the lease's must not wait for the broker, which may take seconds."""
    results: Any = app.backend
    start_thread("reply", "sends a reply", partial(results.reply, [(delivery, outcome)]))
