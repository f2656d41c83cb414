"""Records ends of attempts that only the parent process notices, since no child reports them.

They are a lost child, a time limit and a revoke. The lease's thread calls these functions, since
the parent's event loop must not wait for PostgreSQL.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from celery.exceptions import WorkerLostError

from backend.broker.app import app
from backend.broker.ended import reply_soon
from backend.db import ledger, locked, queries
from backend.db.records import TaskRecord, outcome
from backend.db.session import autocommit_connection, transaction
from backend.errors import LeaseExpired
from backend.loop import start_thread
from backend.registry import registered
from backend.states import RETRY, REVOKED
from backend.telemetry.logs import about
from backend.worker.attempt.report import Report
from backend.worker.failures import backoff, error_text, error_type

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from backend.broker.wire import Delivery

logger = logging.getLogger(__name__)

# How long a revoke waits for a locked task before it is tried again: the same thread renews the
# lease, which tells this worker what to kill.
LOCK_SECONDS = 0.5


def record_failure(delivery: Delivery, worker: str, error: BaseException) -> None:
    """Record an attempt whose child was lost or killed, or that could not be sent to a child.

    Replies if that ended the task. Raises StoreUnavailable.
    """
    reason = error_text(error)
    # Retry at once after a lost process, but with a delay after a time limit.
    spec = registered()[delivery.name]
    delay = 0.0 if isinstance(error, WorkerLostError) else backoff(spec, delivery.attempt)
    with transaction() as connection:
        state = locked.fail(
            connection,
            delivery.id,
            delivery.attempt,
            reason,
            worker,
            declared=spec.max_attempts,
            delay=delay,
            error_type=error_type(error),
        )
    if state is None:
        return
    logger.warning("%s: %s", state, reason, extra=about(delivery.id, delivery.attempt))
    if state != RETRY:
        _reply(delivery, outcome(delivery.id, delivery.attempt, state, error=reason))


def reschedule_unstarted(attempts: Mapping[str, int]) -> None:
    """Reschedule attempts, by task id, that shared a child which was lost, or hangs.

    Those that have started are left out. Raises StoreUnavailable.
    """
    with transaction() as connection:
        locked.lock(connection, attempts)
        again = ledger.reschedule(connection, attempts, None, waiting=True, free=True)
    logger.warning(
        "a process was lost or hangs, so the outcomes of its %d tasks are unknown; %d of them run"
        " again, each alone",
        len(attempts),
        len(again),
    )


def start_attempt(worker: str, delivery: Delivery) -> None:
    """Start an attempt that a child has begun but could not start; usually it has.

    Raises LeaseExpired, StoreUnavailable.
    """
    with transaction() as connection:
        claim = ledger.claim(
            connection,
            {delivery.id: delivery.attempt},
            worker,
            declared=registered()[delivery.name].max_attempts,
            in_time=True,
        )
        if claim.ids and not claim.leased:
            raise LeaseExpired


def read_outcomes(task_ids: Sequence[str]) -> Report:
    """Return a report of those tasks that have run to their end. Raises StoreUnavailable."""
    report = Report()
    with autocommit_connection() as connection:
        for record in queries.states(connection, task_ids):
            # A revoked one was dropped: the child reports no outcome of it.
            if record is not None and record.ended and record.state != REVOKED:
                report.add(record)
    return report


def record_revoke(
    task_id: str, reason: str, came_at: float, delivery: Delivery | None = None
) -> None:
    """Record a revoke; without a delivery it ends the task only if the task is waiting.

    `came_at`: when it came (monotonic). Every worker gets a revoke of Flower's. Replies if that
    ended the task. Raises StoreUnavailable, also while the task's row is locked.
    """
    error = error_text(reason)
    with transaction(lock_seconds=LOCK_SECONDS) as connection:
        attempt = delivery.attempt if delivery else None
        task = locked.revoke(connection, task_id, error, attempt, time.monotonic() - came_at)
    if task is None:
        return
    logger.warning("REVOKED: %s", error, extra=about(task_id, task.attempt))
    if delivery:
        _reply(delivery, outcome(task_id, task.attempt, REVOKED, error=error))
    else:
        reply_soon([task], REVOKED, error)


def _reply(delivery: Delivery, end: TaskRecord) -> None:
    """Reply in a thread: the lease's must not wait for the broker, which may take seconds."""
    results: Any = app.backend
    ended = [(delivery.reply_to, delivery.correlation_id, end)]
    start_thread("reply", "sends a reply", partial(results.reply, ended))
