"""Flower's event thread: one log line per outage, pauses of 30 s at most.

Flower's own thread logs each failure, and a traceback every 5 s while its login is refused. It
doubles its pauses without a limit.
"""

from __future__ import annotations

import logging
import time
from typing import Any, NoReturn

import flower.app
from celery.events import EventReceiver
from flower.events import Events

from backend.broker.app import app
from backend.broker.connection import BROKER_ERRORS, connect
from backend.broker.outage import broker_outage, explain
from backend.telemetry.outage import RETRY_SECONDS

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 10


class _Receiver(EventReceiver):
    _reads = 0

    def on_iteration(self) -> None:
        """Report a success after the first read; called before each read."""
        if self._reads and broker_outage.failing:
            broker_outage.succeeded("events")
        self._reads += 1


class _Events(Events):  # type: ignore[misc]  # Flower has no types
    def run(self) -> NoReturn:
        """Pass events to Flower, as long as the process runs."""
        while True:
            try:
                self._capture()
            except BROKER_ERRORS as error:
                time.sleep(broker_outage.failed(explain(error), "events"))
            except Exception:
                # For example, another program has sent something that is not an event.
                logger.exception("an error in Flower's event thread; it continues")
                time.sleep(RETRY_SECONDS)

    def _capture(self) -> None:
        connection: Any = connect(HEARTBEAT_SECONDS)
        try:
            receiver = _Receiver(connection, handlers={"*": self.on_event}, app=app)
            receiver.capture(limit=None, timeout=None, wakeup=True)
        finally:
            connection.collect()

    async def on_enable_events(self) -> None:
        """Ask workers for their events, while the broker can be used."""
        if not broker_outage.failing:
            await super().on_enable_events()


def install() -> None:
    """Make the `flower` command use this event thread instead of its own."""
    flower.app.Events = _Events
