"""Checks in PostgreSQL whether tasks can be accepted."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from backend.db import leases, migrate, outbox, repairs, writable
from backend.db.connection import database_fault, durability_faults
from backend.db.session import trial
from backend.registry import queue_names

if TYPE_CHECKING:
    from collections.abc import Sequence


class Readiness(NamedTuple):
    """The state of the service in PostgreSQL; `faults` are lines for the operator."""

    migrated: bool
    workers: bool
    relayed: bool
    faults: Sequence[str] = ()


def check(*, large: bool) -> Readiness:
    """Return what PostgreSQL says, after a trial write: a large one if `large`.

    Raises StoreUnavailable.
    """
    if not migrate.current():
        return Readiness(migrated=False, workers=False, relayed=False)
    with trial() as connection:
        # Before the trial, whose row looks like a worker's.
        consumed, late = leases.consumed_queues(connection), outbox.has_overdue(connection)
        writable.try_insert(connection, writable.LARGE if large else writable.SMALL)
        faults = durability_faults(connection)
        if fault := database_fault(connection):
            faults.append(fault)
        if queues := leases.stray_queues(connection):
            faults.append(leases.STRAY_MESSAGES % ", ".join(queues))
        if consumed:
            idle = [queue for queue in queue_names() if queue not in consumed]
            faults += [leases.UNCONSUMED % queue for queue in idle]
        if repaired := repairs.total_if_recent(connection):
            faults.append(
                f"waiting tasks without an outbox row: {repaired} repaired in total, the last"
                " within an hour. Find out what else changes these tables"
            )
    return Readiness(migrated=True, workers=bool(consumed), relayed=not late, faults=faults)
