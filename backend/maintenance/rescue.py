"""Rescues attempts whose worker is dead, or no longer holds them."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from celery.exceptions import WorkerLostError

from backend.broker.ended import reply_ended
from backend.db import leases, locked, queries
from backend.db.session import autocommit_connection, transaction
from backend.errors import StoreLocked
from backend.states import FAILURE
from backend.telemetry.logs import about

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection

    from backend.db.records import Started
    from backend.maintenance.liveness import Liveness

logger = logging.getLogger(__name__)

LOST = "The worker running the task was lost"
# How long to wait for the lock of a task's row: one locked row must not delay the others.
ROW_SECONDS = 0.5


def retry_abandoned(liveness: Liveness) -> None:
    """Retry or fail the tasks that no worker runs any more. Raises StoreUnavailable."""
    with autocommit_connection() as connection:
        began = time.monotonic()
        renewals = leases.renewals(connection)
        started = queries.started(connection)
        last = renewals | {attempt.worker: attempt.renewed_at for attempt in started}
        dead = {
            worker
            for worker in liveness.find_dead(began, time.monotonic(), last)
            if _end_dead(connection, worker, last[worker])
        }
        lost = [attempt for attempt in started if attempt.worker in dead]
    for attempt in lost + liveness.find_unheld(started):
        _fail(attempt)


def _fail(attempt: Started) -> None:
    """Retry or fail the task of a lost attempt, unless its row is locked."""
    log = about(attempt.task_id, attempt.attempt)
    try:
        with transaction(lock_seconds=ROW_SECONDS) as connection:
            state = locked.fail(
                connection,
                attempt.task_id,
                attempt.attempt,
                LOST,
                attempt.worker,
                error_type=WorkerLostError.__name__,
            )
            ended = locked.lock(connection, [attempt.task_id]) if state == FAILURE else {}
    except StoreLocked:
        logger.warning(
            "the worker of a task was lost, but another session has locked the task's row: trying"
            " again; end that session",
            extra=log,
        )
        return
    if state is not None:
        logger.warning("%s after its worker was lost", state, extra=log)
    if ended:
        reply_ended(ended.values(), FAILURE, LOST)


def _end_dead(connection: Connection, worker: str, renewed_at: datetime | None) -> bool:
    """End a dead worker's connections and lease; return False if it has renewed the lease."""
    leases.fence(connection, worker, renewed_at)
    return leases.end_dead(connection, worker, renewed_at)
