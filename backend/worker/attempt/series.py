"""Runs a series: ordinary attempts in order. Fast ones share transactions (group.py)."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

from billiard.compat import mem_rss

from backend.db import locked
from backend.db.session import transaction
from backend.errors import StoreUnavailable
from backend.loop import Loop
from backend.settings import settings
from backend.worker import durations
from backend.worker.attempt.group import GROUP_SECONDS, Group
from backend.worker.attempt.one import run_one, tasks_that_write
from backend.worker.attempt.outcomes import settle
from backend.worker.attempt.retry import retry_while_unavailable
from backend.worker.durations import LONG_SECONDS
from backend.worker.tickets import WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from backend.worker.attempt.attempt import Attempt
    from backend.worker.attempt.report import Report
    from backend.worker.tickets import Tickets

logger = logging.getLogger(__name__)

KIB_PER_MIB = 1024
# How long to wait for the tickets of a job while rows are locked.
LOCKED_WAIT_SECONDS = 0.2


def run_series(attempts: Sequence[Attempt], tickets: Tickets, report: Report) -> None:
    """Run attempts in order, until there are no more tickets or the process is too large."""
    left = deque(attempts)
    first = True
    while left:
        if together := _take_group(left):
            if not _run_group(together, left, tickets, report, first=first):
                return
        else:
            if first:
                tickets.wait(WAIT_SECONDS)
            if not tickets.take():
                return
            attempt = left.popleft()
            settle([attempt], run_one(attempt, report), report)
            if _is_over_memory_limit():
                return
        first = False


def _take_group(left: deque[Attempt]) -> list[Attempt]:
    """Remove and return the next attempts that take about GROUP_SECONDS together.

    Returns none if the next task writes.
    """
    attempts: list[Attempt] = []
    seconds = 0.0
    while left and left[0].spec.name not in tasks_that_write:
        # A task that has not run in this process has a group of its own.
        seconds += durations.average(left[0].spec.name, GROUP_SECONDS)
        if attempts and seconds > GROUP_SECONDS:
            break
        attempts.append(left.popleft())
    return attempts


def _run_group(
    attempts: Sequence[Attempt],
    left: deque[Attempt],
    tickets: Tickets,
    report: Report,
    *,
    first: bool,
) -> bool:
    """Run attempts as a group; put those that have not begun back into `left`.

    `first`: the parent may not have issued the tickets yet.
    Returns False if the series must end: no ticket is left, PostgreSQL is unavailable, or this
    process is over its memory limit.
    """
    if not (first or tickets.left()):
        return False
    group = Group(attempts, report)
    begin = time.monotonic()
    try:
        claimed = retry_while_unavailable(group.open)
    except StoreUnavailable as reason:
        logger.warning(
            "PostgreSQL is unavailable: %d attempts given up, published again later: %s",
            len(attempts),
            reason,
        )
        return False
    # After a slow `open` the tickets are there, or the parent has taken them back.
    if first and time.monotonic() < begin + LONG_SECONDS:
        tickets.wait(LOCKED_WAIT_SECONDS)
    waiting = deque(attempts)
    with watch.over(group):
        goes_on = _run_members(group, waiting, claimed, tickets, report)
        group.close()
    left.extendleft(reversed(waiting))
    return goes_on


def _run_members(
    group: Group,
    waiting: deque[Attempt],
    claimed: frozenset[str],
    tickets: Tickets,
    report: Report,
) -> bool:
    """Run a group's attempts, for about GROUP_SECONDS; leave those in `waiting` that do not begin.

    Returns False if the series must end: no ticket is left, or this process is over its memory
    limit.
    """
    deadline = time.monotonic() + GROUP_SECONDS
    while waiting and not group.closed and time.monotonic() < deadline:
        held, busy = waiting[0].id in claimed, waiting[0].id in group.busy
        if busy:
            group.close()  # while this child waits for a row, it must not keep others waiting
        if not tickets.take(locked=held):
            return False
        attempt = waiting.popleft()
        if held:
            begin = time.monotonic()
            settle([attempt], run_one(attempt, report, group), report)
            durations.note(attempt.spec.name, time.monotonic() - begin)
        elif busy:
            _run_when_unlocked(attempt, report)
        if _is_over_memory_limit():
            return False
    return True


def _run_when_unlocked(attempt: Attempt, report: Report) -> None:
    """Run an attempt whose row another transaction has locked.

    If that takes longer than `lock_timeout`, the attempt runs alone after the series.
    """
    try:
        with transaction() as connection:
            locked.lock(connection, [attempt.id])
    except StoreUnavailable:
        report.alone.append(attempt.id)
    else:
        settle([attempt], run_one(attempt, report), report)


def _is_over_memory_limit() -> bool:
    """Return whether the pool will replace this process when its job has ended."""
    limit = settings().max_memory_per_child
    return bool(limit and mem_rss() > limit * KIB_PER_MIB)


class _Watch:
    """A thread that looks at the group under way, for an attempt that takes long."""

    def __init__(self) -> None:
        self._group: Group | None = None
        self._busy = threading.Event()
        self._loop: Loop | None = None

    @contextmanager
    def over(self, group: Group) -> Iterator[None]:
        """Watch a group inside the block."""
        if self._loop is None:  # not earlier: a fork copies no threads
            self._loop = Loop("long attempts", "claims attempts that take long", self._look)
            self._loop.start()
        self._group = group
        self._busy.set()
        try:
            yield
        finally:
            self._busy.clear()
            self._group = None

    def _look(self) -> None:
        if self._busy.wait(1.0):
            time.sleep(LONG_SECONDS / 2)
            group = self._group
            if group:
                group.start_if_long()


watch = _Watch()
