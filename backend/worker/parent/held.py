"""The attempts that this worker holds, for its lease."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from celery.worker import state as celery_state

if TYPE_CHECKING:
    from collections.abc import Iterable

    from backend.worker.parent.request import LedgerRequest
    from backend.worker.parent.series import Series

T = TypeVar("T")

# The series that run. A child may have started an attempt before the event loop has read about it.
series: set[Series] = set()


def attempts() -> dict[str, LedgerRequest]:
    """Return Celery's requests in this process, by id/attempt: waiting for a child, or running.

    Attempts that share a job are left out, because they are not STARTED; only the one that a child
    has begun last may be. This keeps the lease's row so small that it can change on a full disk.
    """
    waiting, running = celery_state.reserved_requests, celery_state.active_requests
    # If an attempt was delivered twice, the running request replaces the waiting one.
    requests = [*_snapshot(waiting), *_snapshot(running)]
    held = [request for request in requests if not request.shares_job]
    held += filter(None, (job.last_begun() for job in _snapshot(series)))
    return {f"{request.id}/{request.delivery.attempt}": request for request in held}


def _snapshot(requests: Iterable[T]) -> set[T]:
    """Copy a set while the event loop's thread changes it."""
    while True:
        try:
            return set(requests)
        except RuntimeError:  # changed while it was copied
            continue
