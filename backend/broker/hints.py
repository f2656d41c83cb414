"""Publishes messages that may be lost: events, answers to control commands, replies.

The ledger has everything that must not be lost, so nothing here is tried again, and no thread waits
longer than a few seconds. While RabbitMQ's memory or disk alarm is raised, it reads nothing from a
connection that has published. So these messages have their own connections, and the connection that
consumes can still acknowledge.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kombu import Producer

from backend.broker.connection import BROKER_ERRORS, connect
from backend.broker.outage import broker_outage, explain

if TYPE_CHECKING:
    from collections.abc import Callable

    from kombu import Connection

logger = logging.getLogger(__name__)

# How long the broker may take for each read and write.
TIMEOUT_SECONDS = 1.0
# How long nothing is tried after a failure.
SILENCE_SECONDS = 5.0


class Hints:
    """A connection to the broker whose messages are dropped if they cannot be sent at once.

    Several threads may use it. A forked process makes its own connection.
    """

    _lock: threading.Lock
    _connection: Connection | None
    _producer: Producer | None
    _blocked: bool

    def __init__(self, open_connection: Callable[..., Connection] = connect) -> None:
        self._open_connection = open_connection
        self._lost = False
        self._silent_until = 0.0
        self._forget()
        os.register_at_fork(after_in_child=self._forget)

    def send(self, publish: Callable[[Producer], None]) -> None:
        """Call `publish` with a producer if the broker takes messages; never raises.

        Returns within TIMEOUT_SECONDS, or a few times that if it has to connect.
        """
        with self._lock:
            if time.monotonic() < self._silent_until:
                return
            try:
                producer = self._producer or self._connect()
                if self._takes_messages():
                    publish(producer)
                    self._lost = self._blocked
                    if broker_outage.failing:
                        broker_outage.succeeded("hints")
            except BROKER_ERRORS as error:
                pause = broker_outage.failed(explain(error), "hints")
                self._give_up(max(pause, SILENCE_SECONDS))
            except Exception as error:  # noqa: BLE001 - nothing depends on these messages
                self._lose(type(error).__name__)
                self._give_up(SILENCE_SECONDS)

    def _connect(self) -> Producer:
        connection = self._connection = self._open_connection(timeout=TIMEOUT_SECONDS)
        # RabbitMQ's notifications that it no longer reads, and that it reads again.
        established: Any = connection.connection
        established.on_blocked = self._on_blocked
        established.on_unblocked = self._on_unblocked
        producer = self._producer = Producer(connection.default_channel, auto_declare=False)
        return producer

    def _takes_messages(self) -> bool:
        if self._blocked and self._connection is not None:
            with suppress(TimeoutError):
                self._connection.drain_events(timeout=0)
        return not self._blocked

    def _on_blocked(self, _reason: str) -> None:
        self._blocked = True
        self._lose("RabbitMQ's memory or disk alarm is raised")

    def _on_unblocked(self) -> None:
        self._blocked = False

    def _lose(self, why: str) -> None:
        if not self._lost:
            logger.warning(
                "the broker takes no events, answers to inspect or replies about outcomes (%s);"
                " they are dropped, and tasks go on; check the broker",
                why,
            )
        self._lost = True

    def _give_up(self, seconds: float) -> None:
        """Close the connection, and send nothing for this time."""
        self._silent_until = time.monotonic() + seconds
        connection, self._connection, self._producer = self._connection, None, None
        self._blocked = False
        if connection is not None:
            with suppress(Exception):
                connection.collect()

    def _forget(self) -> None:
        """Start without a connection: one that was copied by fork is the parent's."""
        self._lock = threading.Lock()
        self._connection = self._producer = None
        self._blocked = False
