"""Reports queues that no worker consumes."""

from __future__ import annotations

import logging
import time

from backend.db import leases
from backend.db.session import transaction
from backend.registry import queue_names

logger = logging.getLogger(__name__)

# How long a queue may be without a worker before it is reported: workers start, and restart.
IDLE_SECONDS = 30.0


class IdleQueues:
    """Watches the queues without a worker, from one look to the next."""

    idle_seconds = IDLE_SECONDS

    def __init__(self) -> None:
        # By queue: since when it has had no worker.
        self._since: dict[str, float] = {}
        self._reported: set[str] = set()

    def report(self) -> None:
        """Log each queue once that had no worker for `idle_seconds`. Raises StoreUnavailable."""
        with transaction() as connection:
            consumed = leases.consumed_queues(connection)
        now = time.monotonic()
        idle = [queue for queue in queue_names() if queue not in consumed]
        self._since = {queue: self._since.get(queue, now) for queue in idle}
        self._reported &= set(idle)
        for queue, since in self._since.items():
            if now - since >= self.idle_seconds and queue not in self._reported:
                self._reported.add(queue)
                logger.warning(leases.UNCONSUMED, queue)
