"""Ends tasks that have expired before they started."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.broker.ended import reply_soon
from backend.db import control
from backend.db.control import EXPIRED
from backend.db.session import transaction
from backend.loop import Loop
from backend.states import REVOKED

if TYPE_CHECKING:
    from backend.db.records import TaskRecord

# How many tasks one transaction ends.
BATCH = 1000
LOOK_SECONDS = 1.0


class Expiry:
    """The expiry's thread. `start` starts it.

    It has its own, so that no other duty delays it: an expired task must be REVOKED within 3 s.
    """

    def __init__(self) -> None:
        self._loop = Loop(
            "expiry", "revokes tasks that have expired", self.expire, interval=LOOK_SECONDS
        )

    def start(self) -> None:
        """Start the thread."""
        self._loop.start()

    def close(self) -> None:
        """Stop the thread; returns within 1 s, or leaves a batch to be rolled back."""
        self._loop.close(1.0)

    def expire(self) -> None:
        """Revoke waiting tasks that have expired, and send the replies. Raises StoreUnavailable."""
        while not self._loop.stopping.is_set():
            ended = _expire_batch()
            if ended:
                reply_soon(ended, REVOKED, EXPIRED)
            if len(ended) < BATCH:
                return


def _expire_batch() -> list[TaskRecord]:
    with transaction() as connection:
        return control.expire(connection, BATCH)
