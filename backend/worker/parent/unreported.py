"""Records ends of attempts that only the parent process notices, since no child reports them.

They are a lost child, a time limit and a revoke. The lease's thread calls these functions, since
the parent's event loop must not wait for PostgreSQL.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from celery.exceptions import WorkerLostError

from backend.broker.app import app
from backend.db import ledger, locked
from backend.db.records import TaskRecord, outcome
from backend.db.session import transaction
from backend.loop import start_thread
from backend.states import RETRY, REVOKED
from backend.telemetry.logs import about
from backend.worker.failures import backoff, error_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backend.broker.wire import Delivery

logger = logging.getLogger(__name__)


def record_failure(delivery: Delivery, worker: str, error: BaseException) -> None:
    """Record an attempt whose child was lost or killed, or that could not be sent to a child.

    Replies if that ended the task. Raises StoreUnavailable.
    """
    reason = error_text(error)
    # Retry at once after a lost process, but with a delay after a time limit.
    delay = 0.0 if isinstance(error, WorkerLostError) else backoff(delivery.attempt)
    with transaction() as connection:
        state = locked.fail(connection, delivery.id, delivery.attempt, reason, worker, delay=delay)
    if state is None:
        return
    logger.warning("%s: %s", state, reason, extra=about(delivery.id, delivery.attempt))
    if state != RETRY:
        _reply(delivery, outcome(delivery.id, delivery.attempt, state, error=reason))


def record_lost_batch(attempts: Mapping[str, int]) -> None:
    """Reschedule attempts, by task id, that shared a child which was lost; each runs alone.

    None of them has started. Raises StoreUnavailable.
    """
    with transaction() as connection:
        locked.lock(connection, attempts)
        again = ledger.reschedule(connection, attempts, None, waiting=True, free=True)
    logger.warning(
        "a process was lost; of its short tasks (%d) run again, alone: %d",
        len(attempts),
        len(again),
    )


def record_revoke(task_id: str, reason: str, delivery: Delivery | None = None) -> None:
    """Record a revoke; without a delivery it ends the task only if the task is waiting.

    Replies if that ended the task. Raises StoreUnavailable.
    """
    error = error_text(reason)
    with transaction() as connection:
        ended = locked.revoke(connection, task_id, error, delivery.attempt if delivery else None)
    if ended is None:
        return
    logger.warning("REVOKED: %s", error, extra=about(task_id, ended))
    if delivery:
        _reply(delivery, outcome(task_id, ended, REVOKED, error=error))


def _reply(delivery: Delivery, end: TaskRecord) -> None:
    """Reply in a thread: the lease's must not wait for the broker, which may take seconds."""
    results: Any = app.backend
    start_thread("reply", "sends a reply", partial(results.reply, [(delivery, end)]))
