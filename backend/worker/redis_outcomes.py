"""Outcomes with a copy in Redis, for CELERY_RESULT_BACKEND=redis://…; only then is redis loaded."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from celery import states
from celery.backends.redis import RedisBackend

from backend.outage import Outage, Reason
from backend.worker.hints import SILENCE_SECONDS
from backend.worker.outcomes import Ended, LedgerResultBackend

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery.app.task import Context

_redis = Outage("results are copied again")


class RedisOutcomes(LedgerResultBackend, RedisBackend):
    """Stores a copy of each result in Redis, for other readers of Celery results."""

    _silent_until = 0.0

    def tell(
        self,
        task_id: str,
        result: object,
        state: str,
        traceback: str | None = None,
        request: Context | None = None,
    ) -> None:
        """Store a copy, or drop it: every reader of ours has the ledger.

        After a failure none is stored for a while, so that tasks do not wait for Redis.
        """
        if time.monotonic() < self._silent_until:
            return
        try:
            RedisBackend.store_result(
                self, task_id, result, state, traceback=traceback, request=request
            )
        except Exception as error:  # noqa: BLE001 - whatever it was, the ledger has the outcome
            self._silent_until = time.monotonic() + SILENCE_SECONDS
            kind = type(error).__name__
            line = f"copies of results are dropped ({kind}); check CELERY_RESULT_BACKEND"
            _redis.failed(Reason(kind, f"{line}; the ledger has all results"))
        else:
            _redis.succeeded()

    def tell_together(self, ended: Sequence[Ended]) -> None:
        """Store the results of a batch."""
        for end in ended:
            self.tell(end.task_id, end.value, states.SUCCESS)
