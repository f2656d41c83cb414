"""Publishes messages again that the broker has lost."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from typing import TYPE_CHECKING

from backend.broker.connection import BROKER_ERRORS
from backend.broker.outage import broker_outage, explain
from backend.broker.queues import SHORT_QUEUE, TASKS_QUEUE
from backend.db import leases, outbox
from backend.db.session import transaction
from backend.relay.publisher import RELAY_PART, Publisher

if TYPE_CHECKING:
    import threading

logger = logging.getLogger(__name__)

# How many messages of a queue are published again in one pass at most: more than workers handle in
# that time, and few enough for the relay to publish newer tasks within a second.
REPUBLISH = 5000
# How many short tasks a busy worker may have gathered: 16 bundles (worker/parent/short.py).
GATHERED = 1600


class LostMessages:
    """Compares the messages that the broker should have with those that it has."""

    def __init__(self, stopping: threading.Event) -> None:
        self._stopping = stopping
        self._publisher: Publisher | None = None
        # When the broker is asked again, after a failure.
        self._ask_at = -math.inf
        # By queue: how many messages were missing at the last pass.
        self._missing: Counter[str] = Counter()

    def republish(self) -> None:
        """Publish messages again that the broker should have but lacks, if it can be used.

        Raises StoreUnavailable.
        """
        if time.monotonic() < self._ask_at:
            return
        try:
            self._republish()
        except BROKER_ERRORS as error:
            self._ask_at = time.monotonic() + broker_outage.failed(explain(error), RELAY_PART)
            self.disconnect()

    def _republish(self) -> None:
        """Compare the queues with the outbox, and make missing messages due again.

        A backlog is not a loss: while a queue has as many messages as the outbox expects, nothing
        is missing. Duplicates are harmless: the claim drops them.
        """
        if self._publisher is not None:
            self._publisher.attend()
        before, self._missing = self._missing, Counter()
        with transaction() as connection:
            alone, bundles = outbox.published(connection)
        if not (alone or bundles):
            return
        self._missing = self._compare(Counter({TASKS_QUEUE.name: alone, SHORT_QUEUE.name: bundles}))
        # A message that the broker has not read yet looks lost in one pass. So a message is taken
        # for lost when it is missing in two passes.
        lost = before & self._missing
        bundled = 0
        with transaction() as connection:
            unbundled = outbox.republish_overtaken(connection, REPUBLISH)
            if missing := min(lost[TASKS_QUEUE.name], REPUBLISH):
                unbundled += outbox.republish(connection, missing, bundled=False)
            if missing := min(lost[SHORT_QUEUE.name], REPUBLISH):
                bundled = outbox.republish(connection, missing, bundled=True)
            if not (unbundled or bundled):
                return
            outbox.notify_relays(connection)
            waiting, busy = leases.not_begun(connection)
        # Not lost: tasks that busy workers hold. They are published again too, for idle workers.
        count = max(0, unbundled - waiting) + max(0, bundled - busy * GATHERED)
        if count:
            logger.warning(
                "tasks that the broker has lost are published again: %d (nothing runs twice)", count
            )

    def _compare(self, expected: Counter[str]) -> Counter[str]:
        """Return how many messages are missing in each queue.

        Empty while the broker blocks publishing, because it has not read what relays have sent.
        """
        if self._publisher is None:
            self._publisher = Publisher(self._stopping)
        waiting = self._publisher.waiting()
        if waiting is None:
            return Counter()
        missing = expected - Counter(waiting)
        return missing if missing and self._publisher.takes_messages() else Counter()

    def disconnect(self) -> None:
        """Drop the connection; the next comparison makes another."""
        if self._publisher is not None:
            self._publisher.close()
            self._publisher = None
