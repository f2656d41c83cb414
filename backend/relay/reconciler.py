"""The reconciler: finds what was lost, by comparing the ledger with workers and broker.

A slow loop beside the relay. Any number may run: what it does is guarded in the ledger.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from typing import TYPE_CHECKING

from backend.celery_app import SHORT_QUEUE, TASKS_QUEUE
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
# How many messages of a queue are published again in one pass at most: more than workers handle in
# that time, and few enough for the relay to publish newer tasks within a second.
REPUBLISH = 5000


class Reconciler:
    """The reconciler's loop; `run` returns when `stopping` is set."""

    def __init__(self, stopping: threading.Event) -> None:
        self._stopping = stopping
        self._publisher: Publisher | None = None
        self._last_pass = -math.inf
        self._watching_since = math.inf
        # By queue: how many messages were missing at the last pass.
        self._missing: Counter[str] = Counter()

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

        A backlog is not a loss: as long as a queue holds as many messages as the ledger expects,
        nothing is missing. Duplicates are harmless, the claim sorts them out.
        """
        if self._publisher is not None:
            self._publisher.attend()
        before, self._missing = self._missing, Counter()
        with transaction() as connection:
            alone, bundles = outbox.published(connection)
        if not (alone or bundles):
            return
        self._missing = self._compare(Counter({TASKS_QUEUE.name: alone, SHORT_QUEUE.name: bundles}))
        # What a relay has sent and the broker has not read yet is missing too: the first pass after
        # an alarm may find it so, the second does not.
        lost = before & self._missing
        with transaction() as connection:
            count = outbox.republish_overtaken(connection, REPUBLISH)
            for queue, missing in lost.items():
                most = min(missing, REPUBLISH)
                bundled = queue == SHORT_QUEUE.name
                count += outbox.republish(connection, most, bundled=bundled)
            if count:
                outbox.ring(connection)
        if count:
            logger.info(
                "published again, since no worker has begun them: %d (the broker lost them,"
                " or busy workers have them; nothing runs twice)",
                count,
            )

    def _compare(self, expected: Counter[str]) -> Counter[str]:
        """Return how many messages are missing in each queue.

        Empty while the broker blocks publishing: it has not read then what relays have sent.
        """
        if self._publisher is None:
            self._publisher = Publisher(self._stopping)
        waiting = self._publisher.waiting()
        if waiting is None:
            return Counter()
        missing = expected - Counter(waiting)
        return missing if missing and self._publisher.takes_messages() else Counter()

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
