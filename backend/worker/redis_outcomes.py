"""Outcomes with a copy in Redis, for CELERY_RESULT_BACKEND=redis://…; only then is redis loaded."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from celery import states
from celery.backends.redis import RedisBackend

from backend.telemetry import about
from backend.worker.outcomes import Ended, LedgerFirst

if TYPE_CHECKING:
    from collections.abc import Sequence


class RedisOutcomes(LedgerFirst, RedisBackend):
    """Stores a copy of each result in Redis, for other readers of Celery results."""

    def tell_together(self, ended: Sequence[Ended]) -> None:
        """Store the results of a batch."""
        for end in ended:
            store = partial(RedisBackend.store_result, self, end.task_id, end.value, states.SUCCESS)
            self.quietly(store, about(end.task_id, 1))
