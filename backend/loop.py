"""Background threads: a Loop, a thread that does one thing, or one with an event loop.

With LOG_LEVEL=DEBUG the start of each thread is logged, with its name and its work.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import closing
from typing import TYPE_CHECKING

from backend.errors import StoreUnavailable
from backend.telemetry.outage import RETRY_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)


def start_thread(name: str, purpose: str, work: Callable[[], object]) -> threading.Thread:
    """Start a thread that calls `work` once, and return it. It does not keep the process alive.

    `purpose`: what it does, for the log.
    """
    thread = threading.Thread(target=work, name=name, daemon=True)
    logger.debug("thread %s: %s", name, purpose)
    thread.start()
    return thread


def start_event_loop(name: str, purpose: str) -> asyncio.AbstractEventLoop:
    """Start a thread with an event loop, and return the loop. `purpose`: as for `start_thread`.

    The thread ends after `loop.stop()` in the loop. An error that leaves the loop is logged, and
    the loop goes on.
    """
    loop = asyncio.new_event_loop()

    def work() -> None:
        with closing(loop):
            while True:
                try:
                    loop.run_forever()
                except BaseException:  # SystemExit, of a callback
                    logger.exception("an error in the event loop %s; it continues", name)
                else:
                    return

    start_thread(name, purpose, work)
    return loop


def _unexpected(_error: Exception) -> float | None:
    return None


class Loop:
    """A thread that calls `turn` again and again until `close`.

    `stopping` is set by `close`; a turn that waits has to end soon after that.
    """

    # The pause after an error that `pause_after` does not know.
    retry_seconds = RETRY_SECONDS

    def __init__(
        self,
        name: str,
        purpose: str,
        turn: Callable[[], object],
        *,
        interval: float = 0.0,
        pause_after: Callable[[Exception], float | None] = _unexpected,
    ) -> None:
        """Make the loop; `start` starts it.

        `interval`: seconds before each turn. `pause_after`: reports an error that it knows, and
        returns the seconds to wait. For None the loop logs the error, and continues.
        """
        self.name = name
        self._purpose = purpose
        self.stopping = threading.Event()
        self._turn = turn
        self._interval = interval
        self._pause_after = pause_after
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread = start_thread(self.name, self._purpose, self._run)

    def close(self, seconds: float = 3.0) -> bool:
        """Stop the thread, and wait for its end; return False if it runs after `seconds`."""
        self.stopping.set()
        if self._thread is None:
            return True
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        pause = self._interval
        while not self.stopping.wait(pause):
            pause = self._take_turn()

    def _take_turn(self) -> float:
        """Call `turn` once; return the seconds until the next call."""
        try:
            self._turn()
        except StoreUnavailable:  # db/session.py has reported it
            return max(self.retry_seconds, self._interval)
        except Exception as error:
            pause = self._pause_after(error)
            if pause is None:
                logger.exception("an error in the thread %s; it continues", self.name)
                return max(self.retry_seconds, self._interval)
            return pause
        return self._interval
