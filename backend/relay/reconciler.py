"""The reconciler: finds what was lost, by comparing the ledger with workers and broker.

A slow loop beside the relay. Any number may run: what it does is guarded in the ledger.
"""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING

from backend.db import idempotency, ledger, lookups, messages, outbox, workers
from backend.db.session import single, transaction
from backend.relay.publisher import OUTAGES, Publisher
from backend.settings import settings
from backend.telemetry import about

if TYPE_CHECKING:
    import threading

logger = logging.getLogger(__name__)

PASS_SECONDS = 2.0
LOST = "The worker running the task was lost"


class Reconciler:
    """The reconciler's loop; `run` returns when `stopping` is set."""

    def __init__(self, stopping: threading.Event) -> None:
        self._stopping = stopping
        self._publisher: Publisher | None = None
        self._last_pass = -math.inf
        self._watching_since = math.inf

    def run(self) -> None:
        """Make a pass every PASS_SECONDS."""
        while not self._stopping.wait(PASS_SECONDS):
            now = time.monotonic()
            if now - self._last_pass > 3 * PASS_SECONDS:
                # At the start, or PostgreSQL was away and leases ran out for no fault of their
                # workers, who have to have had the time to renew them.
                self._watching_since = now
            try:
                dead_too = now - self._watching_since > workers.LEASE_SECONDS
                retry_abandoned(dead_too=dead_too)
                self._last_pass = time.monotonic()
                self._republish_lost()
            except OUTAGES:
                # The relay meets the same outage and says so.
                self._disconnect()
            except Exception:
                logger.exception("the reconciler met an error; it tries again")
                self._disconnect()
        self._disconnect()

    def _republish_lost(self) -> None:
        """Publish again what the broker should have and has not.

        A backlog is not a loss: as long as the queue holds as many messages as the ledger expects,
        nothing is missing. Duplicates are harmless, the claim sorts them out.
        """
        with transaction() as connection:
            expected = outbox.published(connection)
        if not expected:
            return
        if self._publisher is None:
            self._publisher = Publisher()
        missing = expected - self._publisher.waiting()
        if missing > 0:
            with transaction() as connection:
                count = outbox.republish(connection, missing)
                outbox.ring(connection)
            if count:
                logger.info(
                    "published again, since no worker has begun them: %d (the broker lost them,"
                    " or busy workers have them; nothing runs twice)",
                    count,
                )

    def _disconnect(self) -> None:
        if self._publisher is not None:
            self._publisher.close()
            self._publisher = None


def retry_abandoned(*, dead_too: bool) -> None:
    """Give tasks that nobody works on their next attempt or their end.

    Tasks of workers whose lease ran out are among them only if `dead_too`.
    """
    with single() as connection:
        found = lookups.abandoned(connection, dead_too=dead_too)
        for worker in {attempt.worker for attempt in found if attempt.dead}:
            workers.fence(connection, worker)
        for task_id, attempt, worker, _ in found:
            state = ledger.fail(connection, task_id, attempt, LOST, worker)
            if state is not None:
                logger.warning("%s after its worker was lost", state, extra=about(task_id, attempt))
        workers.forget_dead(connection)
        idempotency.purge(connection, settings().idempotency_hours)
        messages.add_up(connection)
