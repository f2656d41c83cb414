"""The reconciler: finds what was lost, by comparing the ledger with workers and broker.

A slow loop beside the relay. Any number may run: its statements are guarded.
"""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING

from backend.db import (
    bounds,
    clock,
    idempotency,
    messages,
    outbox,
    repairs,
)
from backend.db.session import autocommit_connection, transaction
from backend.errors import StoreLocked
from backend.loop import Loop
from backend.maintenance.expiry import Expiry
from backend.maintenance.idle_queues import IdleQueues
from backend.maintenance.liveness import Calm, Liveness
from backend.maintenance.parked import Parked
from backend.maintenance.purge import Purge
from backend.maintenance.republish import LostMessages
from backend.maintenance.rescue import retry_abandoned
from backend.settings import settings

if TYPE_CHECKING:
    from datetime import datetime


logger = logging.getLogger(__name__)

PASS_SECONDS = 2.0
# After this time every transaction that began before PostgreSQL's clock jumped, and writes to the
# outbox, has ended.
CALM_SECONDS = 60.0
# How often the bounds are compared with every row: a wrong bound delays tasks by this time at most.
COMPARE_SECONDS = 300.0
# How many unfinished tasks one pass checks for a missing outbox row.
REPAIR_LIMIT = 1000


class Reconciler:
    """The threads of reconciler, expiry and, with RETENTION_DAYS, purge. `start` starts them."""

    def __init__(self) -> None:
        self._loop = Loop(
            "reconciler",
            "finds what was lost with a worker or with the broker",
            self._turn,
            interval=PASS_SECONDS,
        )
        days = settings().retention_days
        self._purge = None if days is None else Purge(days)
        self._expiry = Expiry()
        self._lost_messages = LostMessages(self._loop.stopping)
        self._liveness = Liveness()
        self._idle_queues = IdleQueues()
        self._parked = Parked()
        self._calm = Calm()
        self._compared = -math.inf
        # Whether the last pass met another session's lock.
        self._locked = False
        self._repair_from = repairs.START

    def start(self) -> None:
        """Start the threads."""
        self._loop.start()
        self._expiry.start()
        if self._purge is not None:
            self._purge.start()

    def close(self) -> None:
        """Stop the threads; returns within 5 s."""
        self._expiry.close()
        if self._purge is not None:
            self._purge.close()
        if self._loop.close():
            self._lost_messages.disconnect()

    def _turn(self) -> None:
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
        except Exception:
            # The next pass may be late, and a connection that is not read for some time breaks.
            self._lost_messages.disconnect()
            raise

    def make_pass(self) -> None:
        """Do every duty once. Raises StoreUnavailable."""
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
        self._idle_queues.report()
        purge_and_add_up()
        self._repair()
        self._lost_messages.republish()
        self._parked.release()

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


def purge_and_add_up() -> None:
    """Delete idempotency keys that are too old, and add up the message counts."""
    with autocommit_connection() as connection:
        # The time is PostgreSQL's: if its clock is set forward by an hour, keys end an hour early.
        idempotency.purge(connection, settings().idempotency_hours)
        messages.add_up(connection)
