"""Runs attempts in a child process: claim, run, finish, reply.

The parent process sends a list: short tasks, which share one transaction, or a series of ordinary
ones, which run one after the other. An ordinary attempt with its own message is claimed in a
separate transaction before it runs.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from billiard.process import current_process

from backend.registry import registered
from backend.worker.attempt.attempt import Attempt
from backend.worker.attempt.batch import run_batch
from backend.worker.attempt.one import run_one
from backend.worker.attempt.outcomes import settle
from backend.worker.attempt.report import Report
from backend.worker.attempt.series import run_series
from backend.worker.tickets import of_child

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.broker.wire import Delivery
    from backend.worker.tickets import Tickets

logger = logging.getLogger(__name__)


def execute(worker: str, deliveries: Sequence[Delivery], *, series: bool = False) -> Report:
    """Run attempts for a worker; return a report about them.

    `series`: they are ordinary attempts that run one after the other. Otherwise they share one
    transaction, or there is one. Raises only what ends this process: the parent may be unable to
    unpickle other errors.
    """
    specs = registered()
    child: Any = current_process()  # the stubs lack `index`
    try:
        attempts = [Attempt(worker, delivery, specs[delivery.name]) for delivery in deliveries]
        tickets = of_child(child.index) if series else None
        if series and tickets is None:
            return Report(alone=[attempt.id for attempt in attempts])
        return run(attempts, tickets)
    except Exception:
        logger.exception("attempts were given up; the reconciler lets them run again")
        return Report()


def run(attempts: Sequence[Attempt], tickets: Tickets | None = None) -> Report:
    """Run attempts; return a report.

    `tickets`: given if they are a series. Raises only what ends this process.
    """
    begin = time.monotonic()
    report = Report()
    if tickets:
        run_series(attempts, tickets, report)
    elif len(attempts) == 1:
        settle(attempts, run_one(attempts[0], report), report)
    else:
        settle(attempts, run_batch(attempts, report), report)
    report.seconds = time.monotonic() - begin
    return report
