"""Runs an attempt in a thread of a worker with WORKER_POOL=threads.

Claims and outcomes of several threads share transactions. A thread that cannot share one, because
of a limit or an error, makes its own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from backend.batcher import Batcher
from backend.db import ledger, locked
from backend.db.session import session_engine, transaction
from backend.errors import LeaseExpired, StoreUnavailable
from backend.loop import start_event_loop
from backend.registry import registered
from backend.worker.attempt.attempt import Attempt, Report
from backend.worker.attempt.one import run_one
from backend.worker.attempt.outcomes import settle
from backend.worker.attempt.retry import RETRY_SECONDS, retry_while_unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import Engine

    from backend.broker.wire import Delivery
    from backend.db.records import TaskRecord

logger = logging.getLogger(__name__)


T = TypeVar("T")


class SharedCommits:
    """Claims attempts and writes outcomes, those of several threads in one transaction."""

    def __init__(self) -> None:
        """Start two threads, for claims and outcomes, and one that hands items over to them."""
        self._loop = start_event_loop("shared commits", "collects claims and outcomes of threads")
        self._claims = Batcher("claims", self._claim_all, timeout=RETRY_SECONDS)
        self._outcomes = Batcher("outcomes", self._finish_all, timeout=RETRY_SECONDS)

    def claim(self, attempt: Attempt) -> bool:
        """Claim an attempt; False if it did not get it, so that it is tried alone.

        Raises StoreUnavailable.
        """
        return self._result(self._claims, attempt)

    def finish(self, attempt: Attempt, end: TaskRecord) -> bool:
        """Write the outcome of a claimed attempt; False if it was not written, as for `claim`.

        Raises StoreUnavailable.
        """
        return self._result(self._outcomes, (attempt.worker, end))

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
            try:
                claimed |= self._claim_similar(members, declared)
            except StoreUnavailable:
                raise
            except Exception:
                logger.exception("attempts could not be claimed together; each is claimed alone")
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


class InThread:
    """An attempt that runs in a thread; one.py uses it as it uses a Group."""

    def __init__(self, attempt: Attempt, report: Report, commits: SharedCommits) -> None:
        self._attempt = attempt
        self._report = report
        self._commits = commits

    @property
    def sessions(self) -> Engine:
        """Return the engine of `run.session`, which a limited number of threads use at once."""
        return session_engine()

    @contextmanager
    def running(self, attempt: Attempt) -> Iterator[None]:
        """Claim the attempt, whose function runs in the block. Raises as Attempt.claim does."""
        retry_while_unavailable(partial(self._claim, attempt))
        yield

    def _claim(self, attempt: Attempt) -> None:
        apart = attempt.limit or attempt.delivery.external
        if apart or not self._commits.claim(attempt):
            attempt.claim()

    def defer(self, end: TaskRecord) -> bool:
        """Write the outcome together with others; return False if it is to be written alone."""
        if self._attempt.limit:
            return False
        try:
            written = self._commits.finish(self._attempt, end)
        except StoreUnavailable:
            return False
        if written:
            settle([self._attempt], [end], self._report)
        return written

    def start(self, attempt: Attempt) -> None:
        """Do nothing: the task is STARTED."""

    def stop(self) -> None:
        """Do nothing: no row is locked."""


def run_in_thread(delivery: Delivery, worker: str, commits: SharedCommits) -> Report:
    """Run an attempt to its end; return a report. Never raises."""
    begin = time.monotonic()
    report = Report()
    try:
        attempt = Attempt(worker, delivery, registered()[delivery.name])
        settle([attempt], run_one(attempt, report, InThread(attempt, report, commits)), report)
    except BaseException:
        logger.exception("an attempt was given up; the reconciler lets it run again")
    report.seconds = time.monotonic() - begin
    return report
