"""Retries writes to the ledger while PostgreSQL is unavailable."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

from backend.db.session import store_errors
from backend.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

# Seconds. After that the attempt is left to the reconciler.
RETRY_SECONDS = 60.0


def retry_while_unavailable(write: Callable[[], T]) -> T:
    """Call `write`, a whole transaction, until it succeeds, for at most RETRY_SECONDS.

    Returns its value. Raises StoreUnavailable when the time is up.
    """
    deadline = time.monotonic() + RETRY_SECONDS
    pause = 0.1
    while True:
        try:
            with store_errors():
                return write()
        except StoreUnavailable:
            if time.monotonic() + pause > deadline:
                raise
            time.sleep(pause)
            pause = min(pause * 2, 5.0)
