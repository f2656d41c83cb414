"""Counts unfinished tasks when there are too many to count them for each request."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from backend.batcher import Batcher
from backend.db import queries
from backend.db.session import autocommit_connection

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# How old a count may be.
COUNT_SECONDS = 1.0


def _count_unfinished() -> int:
    with autocommit_connection() as connection:
        return queries.count_unfinished(connection)


class Totals:
    """Counts once for all requests, once a second at most, and only while there are requests."""

    def __init__(self, count: Callable[[], int] = _count_unfinished) -> None:
        self._count_tasks = count
        self._counts = Batcher("totals", self._count)
        self._counted_at = -math.inf
        self._total = 0

    @property
    def many(self) -> bool:
        """Return whether the last count, of any age, found more than COUNTED tasks."""
        return self._total > queries.COUNTED

    async def get(self) -> int:
        """Return a count that is at most COUNT_SECONDS old.

        Raises StoreUnavailable as Batcher does.
        """
        return self._total if self._fresh() else await self._counts.submit(None)

    def close(self) -> None:
        """End the thread."""
        self._counts.close()

    def _count(self, asked: Sequence[None]) -> list[int]:
        # Requests that arrived during the last count use its result.
        if not self._fresh():
            self._total = self._count_tasks()
            self._counted_at = time.monotonic()
        return [self._total] * len(asked)

    def _fresh(self) -> bool:
        return time.monotonic() - self._counted_at < COUNT_SECONDS
