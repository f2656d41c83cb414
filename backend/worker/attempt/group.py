"""Claims and outcomes of several ordinary attempts in one transaction, while they are fast.

A group locks the rows of its attempts; the tasks keep their state. It writes the outcomes and
commits when about GROUP_SECONDS have passed. Until then a crash loses only work that took
milliseconds: the rows are unlocked, and the tasks still wait. Only the attempt that was running may
be used up (`Series._on_lost`).

While an attempt runs, it may be claimed: when it has taken LONG_SECONDS, reports progress or uses
`run.session`. The group first writes the outcomes that it has, which unlocks all its rows. Then the
claim, in a transaction of its own, sets the task to STARTED.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from backend.db import ledger, locked, queries
from backend.db.session import transaction, trial
from backend.errors import Duplicate, LeaseExpired, StoreUnavailable
from backend.worker.attempt.outcomes import (
    finish,
    finish_alone,
    handle_error,
    note_dropped,
    settle,
)
from backend.worker.attempt.retry import retry_while_unavailable
from backend.worker.durations import LONG_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import Connection

    from backend.db.records import TaskRecord
    from backend.worker.attempt.attempt import Attempt
    from backend.worker.attempt.report import Report

logger = logging.getLogger(__name__)

# How long the attempts of a group should take together.
GROUP_SECONDS = 0.01


class Group:
    """Attempts whose rows one transaction locks. Used by the main thread and by `_Watch`."""

    def __init__(self, attempts: Sequence[Attempt], report: Report) -> None:
        self._attempts = {attempt.id: attempt for attempt in attempts}
        self._worker = attempts[0].worker
        self._report = report
        self._lock = threading.RLock()
        self._pid = os.getpid()
        # The ids of waiting tasks whose rows another transaction has locked.
        self.busy: frozenset[str] = frozenset()
        # The open transaction, and PostgreSQL's id of it.
        self._transaction: tuple[ExitStack, Connection, str] | None = None
        self._outcomes: list[TaskRecord] = []
        # The attempt whose function runs, and since when (monotonic).
        self._current: Attempt | None = None
        self._since = 0.0

    def open(self) -> frozenset[str]:
        """Lock the rows of attempts that wait; return the tasks' ids.

        Raises LeaseExpired, StoreUnavailable.
        """
        self.close()  # if an earlier try has locked the rows and then failed
        attempts = {attempt.id: attempt.number for attempt in self._attempts.values()}
        with ExitStack() as stack:
            connection = stack.enter_context(trial(lazy=True))
            claim = locked.hold(connection, attempts, self._worker, briefly=True)
            if not claim.leased:
                raise LeaseExpired
            self._transaction = stack.pop_all(), connection, claim.transaction_id
        skipped = [one for one in self._attempts.values() if one.id not in claim.ids]
        self.busy = self._waiting(skipped) if skipped else frozenset()
        note_dropped([one for one in skipped if one.id not in self.busy])
        return claim.ids

    def _waiting(self, attempts: Sequence[Attempt]) -> frozenset[str]:
        with transaction() as connection:
            numbers = {one.id: one.number for one in attempts}
            return frozenset(queries.waiting(connection, numbers))

    @contextmanager
    def running(self, attempt: Attempt) -> Iterator[None]:
        """Watch an attempt whose function runs in the block; close if that raises.

        The code that records the error may have to lock the task's row.
        """
        with self._lock:
            self._current, self._since = attempt, time.monotonic()
        try:
            yield
        except BaseException:
            self.stop()
            raise

    def defer(self, end: TaskRecord) -> bool:
        """Keep the outcome of the current attempt until `close`; return False if it is closed."""
        with self._lock:
            self._current = None
            if self.closed:
                return False
            self._outcomes.append(end)
            return True

    def stop(self) -> None:
        """Close, because the current attempt has ended without an outcome to be kept."""
        with self._lock:
            self._current = None
            self.close()

    def start_if_long(self) -> None:
        """Claim the current attempt if it has taken longer than LONG_SECONDS."""
        with self._lock:
            current = self._current
            if current and not current.started and time.monotonic() > self._since + LONG_SECONDS:
                try:
                    self.start(current)
                except Duplicate:  # its outcome will not count
                    self._current = None

    def start(self, attempt: Attempt) -> None:
        """Set the task of the current attempt to STARTED; the other rows are unlocked.

        Raises Duplicate if the task no longer waits for it, StoreUnavailable.
        """
        if os.getpid() != self._pid:
            # The task has forked this process, which must not use the connection. So it waits: the
            # original process has a thread, `_Watch`, which starts the attempt.
            time.sleep(2 * LONG_SECONDS)
            return
        with self._lock:
            if self._current is not attempt or attempt.started:
                return
            self.close()
            retry_while_unavailable(partial(attempt.claim, begun=True))

    @property
    def closed(self) -> bool:
        """Return whether the rows are unlocked."""
        return self._transaction is None

    def close(self) -> None:
        """Write the outcomes and unlock the rows."""
        with self._lock:
            if self._transaction is None:
                return
            (stack, connection, transaction_id), self._transaction = self._transaction, None
            outcomes, self._outcomes = self._outcomes, []
            try:
                with stack:
                    if outcomes:
                        finish(connection, outcomes, self._worker, waiting=True)
                        connection.commit()
                ended = outcomes
            except StoreUnavailable:
                ended = self._write_again(outcomes, transaction_id) if outcomes else []
            except Exception:
                logger.exception("outcomes could not be written together; each is written alone")
                ended = [end for one in outcomes for end in self._write_alone(one)]
            settle(self._attempts.values(), ended, self._report)

    def _write_again(self, outcomes: list[TaskRecord], transaction_id: str) -> list[TaskRecord]:
        """Write outcomes in another transaction; return those that count.

        The connection may have broken during the commit, so all of them may be written already.
        """

        def write() -> list[TaskRecord]:
            with transaction() as connection:
                locked.lock(connection, [end.id for end in outcomes])
                if queries.committed(connection, transaction_id):
                    return outcomes
                counted = ledger.finish(connection, outcomes, self._worker, waiting=True)
                return [end for end in outcomes if end.id in counted]

        try:
            return retry_while_unavailable(write)
        except StoreUnavailable:
            # Their rows in the outbox are still there: they are published again.
            logger.warning("outcomes given up, since PostgreSQL stayed away: %d", len(outcomes))
            return []

    def _write_alone(self, end: TaskRecord) -> list[TaskRecord]:
        try:
            finish_alone(end, self._worker, waiting=True)
        except Exception as error:  # noqa: BLE001 - it is recorded as the task's error
            return handle_error(self._attempts[end.id], error, self._report)
        return [end]
