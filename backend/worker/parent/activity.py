"""One line about what a worker does, every ten seconds while it does something."""

from __future__ import annotations

import logging
from typing import Final

from celery.worker import state

logger = logging.getLogger(__name__)

SECONDS: Final = 10.0

# Attempts of this process that have ended with an error.
_failed = 0


class ActivityLog:
    """Counts what has changed since the last line, from Celery's own counters."""

    def __init__(self) -> None:
        self._ended = _ended()
        self._failed = _failed

    def report(self) -> None:
        """Log how many attempts have ended since the last line, and how many this worker holds.

        For the event loop's thread. Logs nothing where nothing has ended and nothing runs.
        """
        ended, failed = _ended() - self._ended, _failed - self._failed
        self._ended += ended
        self._failed += failed
        running = len(state.active_requests)
        waiting = len(state.reserved_requests) - running
        if ended or running:
            logger.info(
                "tasks: %d ended, %d failed, %d running, %d waiting in this worker",
                ended,
                failed,
                running,
                waiting,
            )


def count_failure() -> None:
    """Count an attempt that has ended with an error."""
    global _failed  # noqa: PLW0603 - one worker a process
    _failed += 1


def _ended() -> int:
    return state.all_total_count[0] - len(state.active_requests)
