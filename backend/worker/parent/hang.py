"""Watches the event loop of a worker's parent process: if it hangs, the process ends.

Otherwise the lease's thread would continue to renew, and no other worker would run what the hanging
one holds. The watch has its own thread: in the lease's thread, connecting could delay a renewal.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from typing import TYPE_CHECKING

from backend.broker.connection import connect
from backend.loop import Loop

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

TICK_SECONDS = 1.0
CHECK_SECONDS = 2.0
# The event loop hangs if this many checks in a row have found no tick.
CHECKS = 30


class Misses:
    """Counts the checks in a row that found no tick although the broker could be reached.

    Checks are counted, not seconds: a stopped process or a machine that slept adds one missed check
    at most. While the broker is away no tick is expected: Celery waits for it then.
    """

    def __init__(self) -> None:
        self.count = 0

    def check(self, *, ticked: bool, reached: Callable[[], bool]) -> bool:
        """Return whether the event loop hangs; `reached` is called only without a tick."""
        self.count = 0 if ticked or not reached() else self.count + 1
        return self.count >= CHECKS


class EventLoopWatch:
    """A thread that calls `end` when `tick` has not been called for CHECKS checks."""

    def __init__(self, end: Callable[[], None]) -> None:
        self._end = end
        self._ticked = False
        self._misses = Misses()
        self._loop = Loop(
            "event loop watch",
            "ends this worker if its event loop hangs",
            self._check,
            interval=CHECK_SECONDS,
        )
        self._loop.start()

    def tick(self) -> None:
        """Record that the event loop runs; the loop calls this every TICK_SECONDS."""
        self._ticked = True

    def stop(self) -> None:
        """Stop watching: the event loop is about to end."""
        self._loop.stopping.set()

    def _check(self) -> None:
        ticked, self._ticked = self._ticked, False
        if self._misses.check(ticked=ticked, reached=_broker_reached):
            logger.critical(
                "the event loop has hung for %d s, in %s, although the broker can be reached:"
                " this worker ends, and its tasks run again; start it again if nothing else"
                " does (make run and Docker Compose do)",
                self._misses.count * CHECK_SECONDS,
                _place(),
            )
            self._end()
            self._loop.stopping.set()


def _broker_reached() -> bool:
    try:
        connect(timeout=1.0).release()
    except Exception:  # noqa: BLE001 - for any reason
        return False
    return True


def _place() -> str:
    """Return the innermost functions of the main thread, innermost first."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)  # noqa: SLF001 - documented
    return " < ".join(call.name for call in reversed(traceback.extract_stack(frame)[-6:]))
