"""How many tasks have not ended, where they are too many to count at each question."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from backend.batching import Batcher
from backend.db import lookups
from backend.db.session import single

if TYPE_CHECKING:
    from collections.abc import Sequence

# How old a count may be.
COUNT_SECONDS = 1.0


class Totals:
    """Counts once for all who ask, once a second at most, and only while somebody asks."""

    def __init__(self) -> None:
        self._counts = Batcher("totals", self._count)
        self._counted_at = -math.inf
        self._total = 0

    async def get(self) -> int:
        """Return a count that is at most COUNT_SECONDS old when the question comes.

        Raises StoreUnavailable as Batcher does.
        """
        return self.recent() or await self._counts.submit(None)

    def recent(self) -> int | None:
        """Return the last count if it is not older, None otherwise."""
        fresh = time.monotonic() - self._counted_at < COUNT_SECONDS
        return self._total if fresh else None

    def close(self) -> None:
        """End the thread."""
        self._counts.close()

    def _count(self, asked: Sequence[None]) -> list[int]:
        # Those who came while another count was under way have its result.
        if self.recent() is None:
            with single() as connection:
                self._total = lookups.count_unfinished(connection)
            self._counted_at = time.monotonic()
        return [self._total] * len(asked)
