"""Reads what arrives on a connection to the broker, and keeps the connection alive."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kombu import Connection

HEARTBEAT_SECONDS = 10
BEAT_SECONDS = 1.0
# What `handle_all` handles at most, however fast more comes.
MAX_EVENTS = 1000


class EventDrain:
    """Hands a connection's messages to its consumers.

    The heartbeat goes by the clock: waiting for a silent moment would starve it under load.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._beat_at = time.monotonic()

    def handle(self, timeout: float) -> bool:
        """Handle what arrives next; False when nothing did in time."""
        try:
            self._connection.drain_events(timeout=timeout)
        except TimeoutError:
            arrived = False
        else:
            arrived = True
        if time.monotonic() - self._beat_at >= BEAT_SECONDS:
            self._connection.heartbeat_check()
            self._beat_at = time.monotonic()
        return arrived

    def handle_all(self) -> None:
        """Handle what has arrived already."""
        for _ in range(MAX_EVENTS):
            if not self.handle(timeout=0.001):
                return
