"""Wakes relays when tasks come into the outbox."""

from __future__ import annotations

import logging
import select
import time
from functools import cache
from typing import Protocol, cast

from backend.db.connection import behind_pooler
from backend.db.session import autocommit, store_errors

logger = logging.getLogger(__name__)

# How often a relay looks for new rows behind a pooler, where nothing wakes it.
POLL_SECONDS = 0.1


class _Notified(Protocol):
    """The part of a psycopg2 connection that listening needs."""

    notifies: list[object]

    def fileno(self) -> int: ...
    def poll(self) -> int: ...


class OutboxListener:
    """Receives NOTIFY about the outbox from every process, on its own connection.

    Through a pooler nothing can be received: there `wait` only pauses for POLL_SECONDS.
    """

    def __init__(self) -> None:
        with store_errors():
            connection = autocommit().connect()
            # A connection that listens must not go back to the pool.
            connection.detach()
            pooled = behind_pooler(connection)
            if pooled:
                _say_once_that_nothing_wakes_relays()
            else:
                connection.exec_driver_sql("LISTEN outbox")
        # Whether `wait` returns as soon as a task comes in.
        self.notified = not pooled
        self._connection = connection
        self._raw = None if pooled else cast("_Notified", connection.connection.dbapi_connection)

    def wait(self, timeout: float) -> None:
        """Wait for NOTIFY, at most `timeout` seconds. Raises StoreUnavailable."""
        if self._raw is None:
            time.sleep(min(timeout, POLL_SECONDS))
            return
        with store_errors():
            # Not select.select, which takes no file descriptor above 1023.
            poller = select.poll()
            poller.register(self._raw.fileno(), select.POLLIN)
            if poller.poll(timeout * 1000):
                self._raw.poll()
                self._raw.notifies.clear()

    def close(self) -> None:
        """Stop listening. Raises StoreUnavailable if the connection has broken."""
        with store_errors():
            self._connection.close()


@cache
def _say_once_that_nothing_wakes_relays() -> None:
    logger.info(
        "DATABASE_URL leads to a connection pooler, which passes no NOTIFY on: the relay looks for"
        " tasks every %s s",
        POLL_SECONDS,
    )
