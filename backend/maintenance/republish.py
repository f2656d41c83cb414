"""Publishes messages again that the broker has lost."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from backend.broker.connection import BROKER_ERRORS
from backend.broker.outage import broker_outage, explain
from backend.db import lost_messages, outbox
from backend.db.records import SHORT_TASKS
from backend.db.session import transaction
from backend.registry import registered
from backend.relay.publisher import RELAY_PART, Publisher

if TYPE_CHECKING:
    import threading
    from datetime import datetime

    from sqlalchemy import Connection

logger = logging.getLogger(__name__)

# How many messages of a queue, or overtaken tasks, are published again in one pass at most.
REPUBLISH = 5000
# How long a worker may hold a message before it begins its tasks or returns it to the broker, and
# how long the broker may need to read what a relay has sent.
HELD_SECONDS = 6.0
# How long a message may be missing while workers take messages of a higher priority: it probably
# still waits in the broker.
OVERTAKEN_SECONDS = 60.0


class LostMessages:
    """Compares the messages that the broker should have with those that it has."""

    held_seconds = HELD_SECONDS

    def __init__(self, stopping: threading.Event) -> None:
        self._stopping = stopping
        self._publisher: Publisher | None = None
        # When the broker is asked again, after a failure.
        self._ask_at = -math.inf
        # Suspects: the oldest messages, as many as are missing. By queue, then by the time of
        # publishing: since when the message is a suspect (monotonic).
        self._suspects: dict[str, dict[datetime, float]] = {}

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
        with transaction() as connection:
            published = lost_messages.published(connection)
        missing = self._compare(published) if published else Counter()
        with transaction() as connection:
            again = 0
            for queue in published.keys() - {SHORT_TASKS}:
                names = [name for name, task in registered().items() if task.queue == queue]
                again += lost_messages.republish_overtaken(connection, queue, names, REPUBLISH)
            for queue, times in self._long_suspected(connection, missing):
                again += lost_messages.republish(connection, queue, times)
            if not again:
                return
            outbox.notify_relays(connection)
        logger.warning(
            "tasks that the broker has lost are published again: %d (nothing runs twice)", again
        )

    def _long_suspected(
        self, connection: Connection, missing: Counter[str]
    ) -> list[tuple[str, list[datetime]]]:
        """Return the messages that have been suspects for `held_seconds`, and their queue.

        Suspects are the oldest messages of each priority, as many as are missing. Those since the
        same comparison are together. A message that a worker holds is missing too, but not for
        long.
        """
        now = time.monotonic()
        earlier, self._suspects = self._suspects, {}
        long_suspected = []
        for queue, count in missing.items():
            before = earlier.get(queue, {})
            oldest = lost_messages.oldest_published(connection, queue, min(count, REPUBLISH))
            since = self._suspects[queue] = {each: before.get(each, now) for each in oldest}
            # New suspects are mostly there because workers have taken others of their priority.
            taken = max((oldest[each] for each in oldest if each not in before), default=0)
            together = defaultdict(list)
            for each, priority in oldest.items():
                long = self.held_seconds if priority >= taken else OVERTAKEN_SECONDS
                if now - since[each] > long:
                    together[since[each]].append(each)
            long_suspected += [(queue, times) for times in together.values()]
        return long_suspected

    def _compare(self, expected: Counter[str]) -> Counter[str]:
        """Return how many messages are missing in each queue.

        Empty while the broker blocks publishing, because it has not read what relays have sent.
        """
        if self._publisher is None:
            self._publisher = Publisher(self._stopping)
        waiting = self._publisher.waiting(expected)
        if waiting is None:
            return Counter()
        missing = expected - Counter(waiting)
        return missing if missing and self._publisher.takes_messages() else Counter()

    def disconnect(self) -> None:
        """Drop the connection; the next comparison makes another."""
        if self._publisher is not None:
            self._publisher.close()
            self._publisher = None
