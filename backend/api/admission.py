"""Limits how many tasks may wait (MAX_WAITING), and says when to try again."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from backend.batcher import Batcher
from backend.db import outbox
from backend.db.session import autocommit_connection
from backend.errors import TooManyWaiting
from backend.settings import settings

if TYPE_CHECKING:
    from collections.abc import Sequence

# A count of the backlog is used for this time.
SAMPLE_SECONDS = 1.0


class Backlog:
    """Counts waiting tasks: at most once a second in PostgreSQL, plus those admitted since."""

    def __init__(self) -> None:
        self._limit = settings().max_waiting
        self._samples = Batcher("backlog", self._sample)
        self._sampled_at = -math.inf
        self._counted = 0
        self._added = 0
        self._claimed: int | None = None
        self._rate = 0.0

    async def admit(self, count: int) -> None:
        """Admit `count` more tasks. Raises TooManyWaiting, StoreUnavailable and Overloaded."""
        if not count:
            return
        if time.monotonic() - self._sampled_at > SAMPLE_SECONDS:
            await self._samples.submit(None)
        over = self._counted + self._added + count - self._limit
        if over > 0:
            seconds = math.ceil(over / self._rate) if self._rate else 30
            raise TooManyWaiting(self._limit, min(max(seconds, 1), 300))
        self._added += count

    def release(self, count: int) -> None:
        """Subtract `count` admitted tasks, because they were not stored."""
        self._added = max(self._added - count, 0)

    def close(self) -> None:
        """End the thread."""
        self._samples.close()

    def _sample(self, asked: Sequence[None]) -> list[None]:
        with autocommit_connection() as connection:
            waiting, claimed = outbox.backlog(connection, self._limit)
        now = time.monotonic()
        if self._claimed is not None and claimed > self._claimed:
            self._rate = (claimed - self._claimed) / (now - self._sampled_at)
        self._counted, self._added, self._claimed, self._sampled_at = waiting, 0, claimed, now
        return [None] * len(asked)
