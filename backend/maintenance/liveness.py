"""Which workers are dead and which attempts are abandoned, found without comparing clocks.

PostgreSQL's clock may be set, and a machine may sleep. So nothing here depends on the database's
time, only on whether a lease's `renewed_at` has changed from one look to the next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.db.leases import LEASE_SECONDS, RENEW_SECONDS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime, timedelta

    from backend.db.records import Started

# After a longer gap between two looks (PostgreSQL was away, or everything was frozen) a worker
# may have had no chance to renew its lease within LEASE_SECONDS.
LONGEST_GAP = LEASE_SECONDS - RENEW_SECONDS
# The first renewal after a look may have read the held attempts before the new one was claimed. The
# second cannot: it began after the first was committed.
RENEWALS = 2
# PostgreSQL's clock has jumped if it and the monotonic clock drift apart by more than this between
# two looks.
JUMP_SECONDS = 5.0


class Liveness:
    """Watches leases and started attempts, from one look to the next."""

    def __init__(self) -> None:
        self._looked = 0.0
        # Each worker's last renewal, and when it was first seen.
        self._renewals: dict[str, tuple[datetime | None, float]] = {}
        # The last renewal of an attempt's worker, and how many in a row did not hold the attempt.
        self._unheld: dict[tuple[str, int], tuple[datetime, int]] = {}

    def find_dead(
        self, began: float, ended: float, leases: Mapping[str, datetime | None]
    ) -> set[str]:
        """Return the workers that did not renew their lease for LEASE_SECONDS of watching.

        `leases` was read between `began` and `ended`, in seconds of a clock that is never set: each
        worker's last renewal, None if the lease was deleted, which is not a renewal.
        """
        if ended - self._looked > LONGEST_GAP:
            self._renewals.clear()
        self._looked = ended
        self._renewals = {
            worker: self._last_renewal(worker, renewed_at, ended)
            for worker, renewed_at in leases.items()
        }
        return {
            worker for worker, (_, since) in self._renewals.items() if began - since > LEASE_SECONDS
        }

    def _last_renewal(
        self, worker: str, renewed_at: datetime | None, ended: float
    ) -> tuple[datetime | None, float]:
        known = self._renewals.get(worker)
        if known is None or renewed_at not in {None, known[0]}:
            return renewed_at, ended
        return known

    def find_unheld(self, started: Sequence[Started]) -> list[Started]:
        """Return the attempts that RENEWALS further renewals of their worker did not hold."""
        before, self._unheld = self._unheld, {}
        found = []
        for attempt in started:
            if attempt.held or attempt.renewed_at is None:
                continue
            key = attempt.task_id, attempt.attempt
            last, renewals = before.get(key, (attempt.renewed_at, 0))
            renewals += attempt.renewed_at != last
            self._unheld[key] = attempt.renewed_at, renewals
            if renewals >= RENEWALS:
                found.append(attempt)
        return found


class Calm:
    """Measures for how long PostgreSQL has answered and its clock has run evenly."""

    def __init__(self) -> None:
        self._last: tuple[float, datetime] | None = None
        self._since = 0.0

    def seconds(self, at: float, clock: datetime) -> float:
        """Return that time in seconds; `clock` is PostgreSQL's time at the time `at`."""
        if self._last is None or not _even(at - self._last[0], clock - self._last[1]):
            self._since = at
        self._last = at, clock
        return at - self._since


def _even(passed: float, shown: timedelta) -> bool:
    return passed < LONGEST_GAP and abs(shown.total_seconds() - passed) < JUMP_SECONDS
