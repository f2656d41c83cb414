"""Background threads. Every thread that this project starts is one of these two kinds.

With LOG_LEVEL=DEBUG each thread logs its name and its work when it starts.
"""

from __future__ import annotations

import logging
import threading
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
    thread.start()
    logger.debug("thread %s: %s", name, purpose)
    return thread


def _unexpected(_error: Exception) -> float | None:
    return None


class Loop:
    """A thread that calls `turn` again and again until `close`.

    `stopping` is set by `close`; a turn that waits has to end soon after that.
    """

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

        `interval`: seconds between two turns. `pause_after`: returns the seconds to wait after an
        error that it has reported, and None for every other error. The loop logs those and goes on.
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

    def close(self, seconds: float = 3.0) -> None:
        """Stop the thread; returns within `seconds`, when it has ended or not."""
        self.stopping.set()
        if self._thread is not None:
            self._thread.join(seconds)

    def _run(self) -> None:
        while not self.stopping.is_set():
            self.stopping.wait(self._take_turn())

    def _take_turn(self) -> float:
        """Call `turn` once; return the seconds until the next call."""
        try:
            self._turn()
        except StoreUnavailable:  # db/session.py has reported it
            return RETRY_SECONDS
        except Exception as error:
            pause = self._pause_after(error)
            if pause is None:
                logger.exception("the %s met an error; it goes on", self.name)
                return RETRY_SECONDS
            return pause
        return self._interval
