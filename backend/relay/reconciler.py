"""The reconciler: finds what was lost, by comparing the ledger with workers and broker.

A slow loop beside the relay. Any number may run: what it does is guarded in the ledger.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from backend.db import idempotency, ledger, lookups, outbox, workers
from backend.db.session import transaction
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

    def run(self) -> None:
        """Make a pass every PASS_SECONDS."""
        while not self._stopping.wait(PASS_SECONDS):
            try:
                retry_abandoned()
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
                logger.info("%d tasks unclaimed for long are published again", count)

    def _disconnect(self) -> None:
        if self._publisher is not None:
            self._publisher.close()
            self._publisher = None


def retry_abandoned() -> None:
    """Give tasks whose worker died, or lost them, their next attempt or their end."""
    with transaction() as connection:
        for task_id, attempt in lookups.abandoned(connection):
            state = ledger.fail(connection, task_id, attempt, LOST)
            if state is not None:
                logger.warning("%s after its worker was lost", state, extra=about(task_id, attempt))
        workers.forget_dead(connection)
        idempotency.purge(connection, settings().idempotency_hours)
