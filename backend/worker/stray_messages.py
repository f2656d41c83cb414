"""Notices stray messages: those of tasks that the ledger does not have.

Usually another installation uses the same queue. Only messages that were dropped are looked up, so
the others cost nothing.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from backend.db import leases, queries
from backend.db.session import autocommit_connection, transaction
from backend.errors import StoreUnavailable
from backend.worker.failures import error_text

if TYPE_CHECKING:
    from collections.abc import Sequence

logger = logging.getLogger(__name__)

# After a stray message, this process looks up no other message for this time.
PAUSE_SECONDS = 60.0

_pause_until = 0.0


def note_dropped(worker: str, queue: str, task_ids: Sequence[str]) -> None:
    """Record in the worker's row if the ledger lacks one of these tasks; never raises.

    The worker has dropped their messages, all from one queue. Logs a warning at the first stray
    message.
    """
    global _pause_until  # noqa: PLW0603 - for the whole process
    if time.monotonic() < _pause_until:
        return
    try:
        with autocommit_connection() as connection:
            if queries.known(connection, task_ids).issuperset(task_ids):
                return
        with transaction() as connection:
            first = leases.note_stray(connection, worker, error_text(queue))
    except StoreUnavailable:
        return  # the next stray message is recorded instead
    except Exception:
        logger.exception("dropped messages could not be looked up; the worker goes on")
        first = False
    _pause_until = time.monotonic() + PAUSE_SECONDS
    if first:
        logger.warning(leases.STRAY_MESSAGES, error_text(queue))
