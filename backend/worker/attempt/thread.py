"""Runs an attempt in a thread of a worker with WORKER_POOL=threads.

Claims and outcomes of several threads share transactions. An attempt with a limit has its own, and
an external one is claimed in its own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, TypeVar

from backend.batcher import Batcher
from backend.db import ledger, locked
from backend.db.session import transaction
from backend.errors import LeaseExpired, StoreUnavailable
from backend.loop import start_event_loop
from backend.worker.attempt.one import run_one
from backend.worker.attempt.outcomes import settle
from backend.worker.attempt.report import Report
from backend.worker.attempt.retry import RETRY_SECONDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.db.records import TaskRecord
    from backend.worker.attempt.attempt import Attempt

logger = logging.getLogger(__name__)

T = TypeVar("T")


class SharedCommits:
    """Claims attempts and writes outcomes, those of several threads in one transaction."""

    def __init__(self) -> None:
        """Start two threads, for claims and outcomes, and one that hands items over to them."""
        self._loop = start_event_loop("shared commits", "collects claims and outcomes of threads")
        self._claims = Batcher("claims", self._claim_all, timeout=RETRY_SECONDS)
        self._outcomes = Batcher("outcomes", self._finish_all, timeout=RETRY_SECONDS)

    def claim(self, attempt: Attempt) -> None:
        """Claim an attempt together with others, or in a transaction of its own.

        Raises as `Attempt.claim` does, and Fenced.
        """
        alone = attempt.limit or attempt.delivery.external
        if alone or not self._result(self._claims, attempt):
            attempt.claim()
        attempt.refuse_if_fenced()

    def finish(self, attempt: Attempt, end: TaskRecord) -> bool:
        """Write an outcome together with others; return False if that is not certain.

        The caller then writes it in a transaction of its own.
        """
        try:
            return not attempt.limit and self._result(self._outcomes, (attempt.worker, end))
        except StoreUnavailable:
            return False

    def close(self) -> None:
        """Stop the threads, when no attempt runs."""
        self._claims.close()
        self._outcomes.close()
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _result(self, batcher: Batcher[T, bool], item: T) -> bool:
        return asyncio.run_coroutine_threadsafe(batcher.submit(item), self._loop).result()

    def _claim_all(self, attempts: Sequence[Attempt]) -> list[bool]:
        # Two deliveries of one attempt: the second one is tried alone, and is a duplicate.
        by_id = {attempt.id: attempt for attempt in reversed(attempts)}
        claimed: set[Attempt] = set()
        for declared in {attempt.spec.max_attempts for attempt in attempts}:
            members = [each for each in by_id.values() if each.spec.max_attempts == declared]
            claimed |= self._claim_similar(members, declared)
        return [attempt in claimed for attempt in attempts]

    def _claim_similar(self, attempts: Sequence[Attempt], declared: int) -> set[Attempt]:
        """Claim attempts whose tasks declare the same max_attempts; return those that it got."""
        with transaction() as connection:
            claim = ledger.claim(
                connection,
                {attempt.id: attempt.number for attempt in attempts},
                attempts[0].worker,
                declared=declared,
                flush=any(attempt.needs_flush for attempt in attempts),
                # A locked row must not delay the other tasks.
                skip_locked=True,
            )
            if not claim.leased:
                raise LeaseExpired
            claimed = {attempt for attempt in attempts if attempt.id in claim.ids}
            for attempt in claimed:
                attempt.claimed_by(claim.transaction_id)
        return claimed

    def _finish_all(self, outcomes: Sequence[tuple[str, TaskRecord]]) -> list[bool]:
        worker = outcomes[0][0]  # the same for all
        ends = [end for _, end in outcomes]
        try:
            with transaction() as connection:
                locked.lock(connection, [end.id for end in ends])
                counted = ledger.finish(connection, ends, worker, waiting=False)
        except StoreUnavailable:
            raise
        except Exception:
            logger.exception("outcomes could not be written together; each is written alone")
            counted = frozenset()
        return [end.id in counted for end in ends]


def run_attempt(attempt: Attempt, commits: SharedCommits) -> Report:
    """Run an attempt in the current thread; return a report. Raises nothing."""
    begin = time.monotonic()
    report = Report()
    try:
        settle([attempt], run_one(attempt, report, commits=commits), report)
    except BaseException:
        logger.exception("an attempt was given up; the reconciler lets it run again")
    report.seconds = time.monotonic() - begin
    return report
