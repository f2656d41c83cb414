"""A place in the history of tasks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Self
from uuid import UUID

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = datetime(9999, 1, 1, tzinfo=UTC)


class Position(NamedTuple):
    """A place in the history, by a time in microseconds since 1970, and an id.

    A page has tasks that are older than its position.
    """

    time: int
    id: UUID

    @classmethod
    def at(cls, time: datetime) -> Self:
        """Return the position whose older tasks are those from before a time."""
        return cls((time - EPOCH) // timedelta(microseconds=1), UUID(int=0))

    def bound(self) -> UUID:
        """Return an id: the smaller ids of version 7 are those of older tasks."""
        milliseconds, rest = divmod(self.time, 1000)
        first = min(max(milliseconds + bool(rest), 0), 2**48 - 1) << 80
        return UUID(int=first if rest else min(max(first, self.id.int), first + 2**80 - 1))

    def moment(self) -> datetime:
        """Return its time."""
        return min(EPOCH + timedelta(microseconds=min(self.time, 2**57)), _LATEST)


NEWEST = Position(2**62, UUID(int=2**128 - 1))
