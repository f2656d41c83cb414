"""The reconciler: finds what was lost, by comparing the ledger with workers and broker.

A slow loop beside the relay. Any number may run: what it does is guarded in the ledger.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from typing import TYPE_CHECKING

from backend.broker.app import BROKER_ERRORS, SHORT_QUEUE, TASKS_QUEUE
from backend.broker.outage import broker_outage, explain
from backend.db import (
    bounds,
    clock,
    idempotency,
    locked,
    messages,
    outbox,
    queries,
    repairs,
    workers,
)
from backend.db.session import autocommit_connection, transaction
from backend.errors import StoreLocked, StoreUnavailable
from backend.relay.liveness import Calm, Liveness
from backend.relay.publisher import Publisher
from backend.settings import settings
from backend.telemetry import about

if TYPE_CHECKING:
    import threading
    from datetime import datetime

    from sqlalchemy import Connection

    from backend.db.records import Started

logger = logging.getLogger(__name__)

PASS_SECONDS = 2.0
# No transaction that began before a jump of PostgreSQL's clock is still under way after so long.
CALM_SECONDS = 60.0
# How often the bounds are compared with every row: should one be wrong, nothing waits for longer.
COMPARE_SECONDS = 300.0
LOST = "The worker running the task was lost"
# How many messages of a queue are published again in one pass at most: more than workers handle in
# that time, and few enough for the relay to publish newer tasks within a second.
REPUBLISH = 5000
# How many short tasks a busy worker may have gathered: 16 bundles (worker/short.py).
GATHERED = 1600
# How long the row of an abandoned task is waited for: the others must not wait for one.
ROW_SECONDS = 0.5
# What relay and reconciler are called in an outage of the broker. One name for both: the reconciler
# mostly has nothing to ask the broker, so the relay finds out that it is back.
RELAY_PART = "relay"
# How many unfinished tasks one pass checks for a missing outbox row.
REPAIR_LIMIT = 1000


class Reconciler:
    """The reconciler's loop; `run` returns when `stopping` is set."""

    def __init__(self, stopping: threading.Event) -> None:
        self._stopping = stopping
        self._publisher: Publisher | None = None
        self._liveness = Liveness()
        self._calm = Calm()
        self._compared = -math.inf
        # When the broker is asked again, after a failure.
        self._broker_at = -math.inf
        # Whether the last pass met another session's lock.
        self._locked = False
        # By queue: how many messages were missing at the last pass.
        self._missing: Counter[str] = Counter()
        self._repair_from = repairs.START

    def run(self) -> None:
        """Make a pass every PASS_SECONDS."""
        while not self._stopping.wait(PASS_SECONDS):
            try:
                self.make_pass()
                self._locked = False
            except StoreLocked:
                if not self._locked:  # one line, however long it lasts
                    logger.warning(
                        "another session of PostgreSQL holds locks that the reconciler needs: lost"
                        " tasks and messages are found late; end that session"
                    )
                self._locked = True
            except StoreUnavailable:
                self._disconnect()
            except BROKER_ERRORS as error:
                pause = broker_outage.failed(explain(error), RELAY_PART)
                self._broker_at = time.monotonic() + pause
                self._disconnect()
            except Exception:
                logger.exception("the reconciler met an error; it tries again")
                self._disconnect()
        self._disconnect()

    def make_pass(self) -> None:
        """Do every duty once. Raises StoreUnavailable or one of BROKER_ERRORS."""
        # Start with a write. On a PostgreSQL that stores nothing it fails, so workers that cannot
        # renew their leases are not taken for dead.
        with autocommit_connection() as connection:
            now, set_back = clock.read(connection)
        # Before anything that may wait for another session's lock.
        retry_abandoned(self._liveness)
        calm = self._calm.seconds(time.monotonic(), now)
        if set_back:
            _follow_clock()
        elif calm > CALM_SECONDS:
            self._raise_bounds(now)
        keep_house()
        self._repair()
        if time.monotonic() >= self._broker_at:
            self._republish_lost()

    def _repair(self) -> None:
        """Insert missing outbox rows of waiting tasks."""
        with autocommit_connection() as connection:
            self._repair_from, repaired = repairs.repair(
                connection, self._repair_from, REPAIR_LIMIT
            )
            if repaired:
                outbox.notify_relays(connection)
        if repaired:
            logger.warning(
                "waiting tasks had no outbox row and run now: %d, such as %s (no statement of this"
                " service causes this: find out what else changes its tables)",
                len(repaired),
                repaired[0],
            )

    def _raise_bounds(self, now: datetime) -> None:
        with autocommit_connection() as connection:
            bounds.advance(connection, now)
            if time.monotonic() - self._compared > COMPARE_SECONDS:
                self._compared = time.monotonic()
                bounds.lower(connection)

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
            waiting, busy = workers.not_begun(connection)
        # The others are with busy workers; an idle one may begin them now.
        count = max(0, unbundled - waiting) + max(0, bundled - busy * GATHERED)
        if count:
            logger.warning(
                "tasks that the broker has lost are published again: %d (nothing runs twice)", count
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


def _follow_clock() -> None:
    """Move the outbox's times back with PostgreSQL's clock."""
    try:
        with transaction() as connection:
            clock.wait_for_writers(connection)
        with transaction() as connection:
            by = clock.follow(connection)
    except StoreLocked:
        logger.warning(
            "PostgreSQL's clock was set back, but another session has locked the outbox, so retries"
            " are late: trying again; end that session"
        )
        return
    if by is not None:
        logger.warning(
            "PostgreSQL's clock was set back by %.0f s: the outbox's times were moved with it;"
            " check how the host's clock is set (NTP)",
            by.total_seconds(),
        )


def retry_abandoned(liveness: Liveness) -> None:
    """Give tasks that no worker runs any more their next attempt or their end."""
    with autocommit_connection() as connection:
        began = time.monotonic()
        leases = workers.leases(connection)
        started = queries.started(connection)
        last = leases | {attempt.worker: attempt.renewed_at for attempt in started}
        dead = {
            worker
            for worker in liveness.find_dead(began, time.monotonic(), last)
            if _end_dead(connection, worker, last[worker])
        }
        lost = [attempt for attempt in started if attempt.worker in dead]
    for attempt in lost + liveness.find_unheld(started):
        _fail(attempt)


def _fail(attempt: Started) -> None:
    """Give an attempt's task its next one or its end, unless its row is locked."""
    log = about(attempt.task_id, attempt.attempt)
    try:
        with transaction(lock_seconds=ROW_SECONDS) as connection:
            state = locked.fail(connection, attempt.task_id, attempt.attempt, LOST, attempt.worker)
    except StoreLocked:
        logger.warning(
            "the worker of a task was lost, but another session has locked the task's row: trying"
            " again; end that session",
            extra=log,
        )
        return
    if state is not None:
        logger.warning("%s after its worker was lost", state, extra=log)


def _end_dead(connection: Connection, worker: str, renewed_at: datetime | None) -> bool:
    """End a dead worker's connections and lease; False where it turns out to be alive."""
    workers.fence(connection, worker, renewed_at)
    return workers.end_dead(connection, worker, renewed_at)


def keep_house() -> None:
    """Delete keys that are too old, and add up what counts the messages."""
    with autocommit_connection() as connection:
        # By PostgreSQL's clock: one that is set forward by an hour shortens their time by an hour.
        idempotency.purge(connection, settings().idempotency_hours)
        messages.add_up(connection)
