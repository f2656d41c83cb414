"""Raises TimeUp in a task's function shortly before its time limit, so that it can end in order."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from backend.errors import TimeUp

if TYPE_CHECKING:
    from collections.abc import Iterator

# A tenth of the time limit, in seconds, but not less or more than these.
LEAST_SECONDS = 1.0
MOST_SECONDS = 10.0

# The time limit of the function that runs; 0 if none runs. A signal may arrive just after its end.
_limit = 0.0


def seconds_before(limit: float) -> float:
    """Return how long before its time limit a function gets TimeUp."""
    return min(max(limit / 10, LEAST_SECONDS), MOST_SECONDS)


@contextmanager
def time_up(limit: float, left: float) -> Iterator[None]:
    """Raise TimeUp inside the block when its time is nearly over.

    `limit`: the time limit. `left`: how much of it is left. Does nothing in a thread, which gets no
    signals, and for a time limit of LEAST_SECONDS or less.
    """
    seconds = left - seconds_before(limit)
    if seconds <= 0 or threading.current_thread() is not threading.main_thread():
        yield
        return
    global _limit  # noqa: PLW0603 - one function at a time runs in the main thread
    signal.signal(signal.SIGALRM, _raise)
    _limit = limit
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        _limit = 0.0
        signal.setitimer(signal.ITIMER_REAL, 0)


def _raise(*_: object) -> None:
    if _limit:
        raise TimeUp(_limit)
