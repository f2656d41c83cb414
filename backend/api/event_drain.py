"""Reads what arrives on a connection to the broker, and keeps the connection alive."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from kombu import Connection

HEARTBEAT_SECONDS = 10
BEAT_SECONDS = 1.0
# How long `close` waits for a thread that reads from the broker. With Redis, kombu may need one
# second to close a connection. If the process ends before that, nothing is lost.
CLOSE_SECONDS = 0.3
# The longest read of such a thread: it is shorter, so that the thread usually ends in time.
READ_SECONDS = 0.25
# The most events that one `handle_all` handles.
MAX_EVENTS = 1000


class EventDrain:
    """Hands a connection's messages to its consumers.

    Sends a heartbeat every second, also under load, when there is no pause between messages.
    """

    def __init__(self, connection: Connection, clock: Callable[[], float] = time.monotonic) -> None:
        self._connection = connection
        self._clock = clock
        self._beat_at = clock()

    def handle(self, timeout: float) -> bool:
        """Handle the next event; return False if none arrives within `timeout` seconds."""
        try:
            self._connection.drain_events(timeout=timeout)
        except TimeoutError:
            arrived = False
        else:
            arrived = True
        if self._clock() - self._beat_at >= BEAT_SECONDS:
            self._connection.heartbeat_check()
            self._beat_at = self._clock()
        return arrived

    def handle_all(self) -> None:
        """Handle the events that have arrived, at most MAX_EVENTS."""
        for _ in range(MAX_EVENTS):
            if not self.handle(timeout=0.001):
                return
