"""Copies of results in Redis, for CELERY_RESULT_BACKEND=redis://…; only then is redis loaded."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from celery.backends.redis import RedisBackend

from backend.broker.hints import SILENCE_SECONDS
from backend.broker.results import LedgerResultBackend, exception_of
from backend.states import SUCCESS
from backend.telemetry.outage import Outage, Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.broker.results import Ended

_redis = Outage("results are copied again")


class RedisResults(LedgerResultBackend, RedisBackend):
    """Stores a copy of each result in Redis, for other readers of Celery results."""

    _silent_until = 0.0

    def reply(self, ended: Sequence[Ended]) -> None:
        """Store copies, or drop them: our own readers use the ledger. Never raises.

        After a failure none is stored for a while, so that tasks do not wait for Redis.
        """
        if time.monotonic() < self._silent_until:
            return
        try:
            for *_, outcome in ended:
                succeeded = outcome.state == SUCCESS
                value = json.loads(outcome.result or "null") if succeeded else exception_of(outcome)
                RedisBackend.store_result(self, outcome.id, value, outcome.state)
        except Exception as error:  # noqa: BLE001 - the ledger has the outcome
            self._silent_until = time.monotonic() + SILENCE_SECONDS
            kind = type(error).__name__
            line = f"copies of results are dropped ({kind}); check CELERY_RESULT_BACKEND"
            _redis.failed(Reason(kind, f"{line}; the ledger has all results"))
        else:
            _redis.succeeded()
