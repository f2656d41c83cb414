"""Requests in the order in which they run: by priority, then as they came."""

from __future__ import annotations

from collections import deque
from itertools import chain
from typing import TYPE_CHECKING

from backend.options import HIGHEST

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from backend.worker.parent.request import LedgerRequest


class PriorityQueue:
    """Requests that wait, the most urgent first."""

    def __init__(self) -> None:
        self._levels: list[deque[LedgerRequest]] = [deque() for _ in range(HIGHEST + 1)]

    def __len__(self) -> int:
        """Return how many wait."""
        return sum(map(len, self._levels))

    def __iter__(self) -> Iterator[LedgerRequest]:
        """Yield them in order."""
        return chain.from_iterable(reversed(self._levels))

    def first(self) -> LedgerRequest:
        """Return the first one, which stays. Raises StopIteration if there is none."""
        return next(iter(self))

    def pop_first(self) -> LedgerRequest:
        """Take the first one. Raises StopIteration if there is none."""
        return next(level for level in reversed(self._levels) if level).popleft()

    def add(self, requests: Iterable[LedgerRequest]) -> None:
        """Add requests, each behind those of its priority."""
        for request in requests:
            self._levels[request.priority].append(request)

    def add_first(self, requests: Iterable[LedgerRequest]) -> None:
        """Add requests in order, each before those of its priority."""
        for request in reversed(list(requests)):
            self._levels[request.priority].appendleft(request)

    def clear(self) -> None:
        """Remove all."""
        for level in self._levels:
            level.clear()
