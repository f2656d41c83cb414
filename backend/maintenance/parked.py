"""Makes tasks due that wait for a limit although it is not reached.

An end that only a worker's parent process or a reconciler notices makes no other task due.
"""

from __future__ import annotations

import time

from backend.db import limits
from backend.db.limits import Limit
from backend.db.session import transaction
from backend.registry import registered

# How many keys are looked at in one transaction, and for how long in one pass. The next pass goes
# on after them.
KEYS = 100
SECONDS = 1.0
# The limit of a task that no longer has one.
UNLIMITED = 1000


class Parked:
    """Looks at the keys of parked rows, pass by pass."""

    def __init__(self) -> None:
        self._after = ""

    def release(self) -> None:
        """Make parked rows due, as many as their limits allow. Raises StoreUnavailable."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            with transaction() as connection:
                keys = limits.parked_keys(connection, self._after, KEYS)
                limits.release(connection, _limits(keys))
            self._after = keys[-1] if len(keys) == KEYS else ""
            if not self._after:
                break


def _limits(keys: list[str]) -> list[Limit]:
    """Return the limits of keys, without those of tasks that only another version has."""
    found = []
    for key in keys:
        task = registered().get(key.partition("/")[0])
        if task is not None:
            found.append(Limit(key, task.max_running or UNLIMITED))
    return found
