"""The relay: takes due rows from the outbox and publishes them, until it is told to stop.

Any number of relays may run, as threads of API processes or as processes of their own.
"""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING

from backend.broker.connection import pause_after
from backend.broker.outage import broker_outage
from backend.broker.pack import MAX_TASKS, pack
from backend.broker.queues import prefixed
from backend.db import leases, limits, outbox
from backend.db.listen import OutboxListener
from backend.db.session import transaction
from backend.loop import Loop
from backend.registry import registered
from backend.relay.publisher import RELAY_PART, Publisher

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Connection

    from backend.db.limits import Limit
    from backend.db.records import OutboxEntry

logger = logging.getLogger(__name__)

BATCH = 500
# The pause after a batch, so that more tasks gather: each batch has a cost. After a small batch
# there is no pause: probably one client waits for each task before it posts the next. After a batch
# of more than MAX_TASKS, but fewer than BATCH, the pause is twice as long.
GATHER_SECONDS = 0.025
SMALL_BATCH = 10
# No pause after a batch with more bytes of arguments than this: it may have been cut at TAKE_BYTES,
# so that more tasks are due.
GATHER_BYTES = outbox.TAKE_BYTES // outbox.COMPRESSION
# How late a retry may be published: no NOTIFY wakes the relays when it becomes due.
IDLE_SECONDS = 0.5
# A queue that refused nothing for this time has recovered. The time is longer than the longest
# pause before a refused task is published again.
REFUSAL_SECONDS = 600.0


class Relay:
    """The relay's thread. `start` starts it.

    `blocked` is true while the broker has an alarm and reads nothing that the relay publishes.
    """

    def __init__(
        self,
        listen: Callable[[], OutboxListener] = OutboxListener,
        publisher: type[Publisher] = Publisher,
    ) -> None:
        self.blocked = False
        self._listen = listen
        self._publisher = publisher
        # When each queue last refused messages.
        self._refusals: dict[str, float] = {}
        self._loop = Loop(
            "relay",
            "publishes the tasks that are due",
            self._serve,
            pause_after=pause_after(RELAY_PART),
        )
        self._stopping = self._loop.stopping
        # Whether PostgreSQL wakes this relay when tasks come in.
        self._notified = True
        # The long tasks, from the leases; and when to read them again.
        self._long: frozenset[str] | None = None
        self._look_at = 0.0

    def start(self) -> None:
        """Start the thread."""
        self._loop.start()

    def close(self) -> None:
        """Stop the thread; returns within 3 s."""
        self._loop.close()

    def _serve(self) -> None:
        """Publish what is due, until something breaks or the relay is to stop."""
        listener = self._listen()
        self._notified = listener.notified
        try:
            publisher = self._publisher(self._stopping, self._on_blocked)
            try:
                # Take no rows before the broker has shown that it reads what is published.
                while not (publisher.takes_messages() or self._stopping.is_set()):
                    pass
                while not self._stopping.is_set():
                    if self.blocked:
                        publisher.attend(IDLE_SECONDS)
                        continue
                    pause = self._publish_due(publisher)
                    if broker_outage.failing:
                        broker_outage.succeeded(RELAY_PART)
                    if pause is None:
                        publisher.attend()
                        # Returns at once if tasks came in since the last batch was taken.
                        listener.wait(IDLE_SECONDS)
                    elif pause:
                        self._stopping.wait(pause)
            finally:
                self.blocked = False
                publisher.close()
        finally:
            listener.close()

    def _publish_due(self, publisher: Publisher) -> float | None:
        """Publish one batch; return the seconds to pause after it, None to wait for more tasks."""
        with transaction(lazy=True) as connection:
            batch = outbox.take(connection, BATCH)
            if not batch:
                return None
            parked = _park(connection, batch)
            due = [entry for entry in batch if entry.task_id not in parked]
            messages = pack(due, self._long_tasks(connection))
            marks = ((message.queue, message.task_ids) for message in messages)
            outbox.mark_published(connection, marks)
        try:
            if messages:  # none if all were parked
                publisher.publish(messages)
        finally:
            self._put_back(publisher, due)
            if parked:
                with transaction() as connection:
                    limits.release(connection, parked.values())
        if messages:
            self._report_refused(publisher)
        if parked or sum(len(entry.args.encode()) for entry in batch) > GATHER_BYTES:
            return 0
        if len(batch) > SMALL_BATCH:
            return GATHER_SECONDS * (2 if MAX_TASKS < len(batch) < BATCH else 1)
        return None if self._notified else 0

    def _long_tasks(self, connection: Connection) -> frozenset[str] | None:
        """Return the names of ordinary tasks that are not bundled; None: bundle none."""
        now = time.monotonic()
        if now > self._look_at:
            self._look_at = now + leases.RENEW_SECONDS
            self._long = leases.long_tasks(connection)
        return self._long

    def _put_back(self, publisher: Publisher, batch: Sequence[OutboxEntry]) -> None:
        """Make rows due again whose messages the broker may not have.

        Refused messages stay marked as published. If they were due at once, they would be taken
        before newer tasks, again and again. The reconciler finds them missing and makes them due
        later.
        """
        unconfirmed = publisher.unconfirmed()
        if unconfirmed:
            if not broker_outage.failing:  # else the outage was logged already
                logger.warning("%d of %d tasks go back to the outbox", len(unconfirmed), len(batch))
            with transaction() as connection:
                outbox.put_back(connection, unconfirmed)

    def _report_refused(self, publisher: Publisher) -> None:
        """Log once for each period in which a queue refuses messages."""
        now = time.monotonic()
        for queue, count in publisher.refused.items():
            if now - self._refusals.get(queue, -math.inf) > REFUSAL_SECONDS:
                logger.warning(
                    "the broker refuses messages for the queue %s: %d tasks wait and are published"
                    " again later; remove its length limit (policy), or bring back the nodes that"
                    " hold it",
                    prefixed(queue),
                    count,
                )
            self._refusals[queue] = now

    def _on_blocked(self, blocked: bool) -> None:  # noqa: FBT001 - the publisher's callback
        self.blocked = blocked
        if blocked:
            logger.warning(
                "the broker has an alarm and blocks publishing: tasks wait and run when it has"
                " cleared; give the broker's host more memory or disk"
            )
        else:
            logger.info("the broker's alarm has cleared: publishing again")


def _park(connection: Connection, batch: Sequence[OutboxEntry]) -> dict[str, Limit]:
    """Park taken rows that have not been compared with their limit; return the limits by task."""
    attempts = {}
    parked = {}
    for entry in batch:
        task = registered().get(entry.name)
        limit = task.limit(entry.args) if task and entry.limit_key is None else None
        if limit:
            attempts[entry.task_id] = entry.attempt, limit.key
            parked[entry.task_id] = limit
    if parked:
        limits.park(connection, attempts)
    return parked
