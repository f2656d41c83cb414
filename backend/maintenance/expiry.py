"""Ends tasks that have expired before they started."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.broker.ended import reply_ended
from backend.db import control
from backend.db.control import EXPIRED
from backend.db.session import transaction
from backend.states import REVOKED

if TYPE_CHECKING:
    from backend.db.records import TaskRecord

# How many tasks one transaction ends.
BATCH = 1000
# How many batches one pass has.
BATCHES = 20


def expire() -> None:
    """Revoke waiting tasks that have expired, and send the replies. Raises StoreUnavailable."""
    for _ in range(BATCHES):
        ended = _expire_batch()
        if ended:
            reply_ended(ended, REVOKED, EXPIRED)
        if len(ended) < BATCH:
            return


def _expire_batch() -> list[TaskRecord]:
    with transaction() as connection:
        return control.expire(connection, BATCH)
