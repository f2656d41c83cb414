"""Requests that wait for a free child. If none becomes free, other workers get them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from celery.worker.state import task_ready

from backend.worker.parent import lease
from backend.worker.parent.priority_queue import PriorityQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from backend.worker.parent.jobs import Job
    from backend.worker.parent.request import LedgerRequest
    from backend.worker.parent.series import Series

# How long requests wait for a child before their messages go back to the broker.
BUSY_SECONDS = 0.5


class WaitingRequests:
    """The requests of one kind, by priority, until a child is free.

    `next_job(requests)` takes the first requests for the next job, and returns the job for
    the child that has become free; None if it had to drop all of them. `limit()` returns how many
    children may run such jobs at once.
    """

    def __init__(
        self,
        controller: Any,  # noqa: ANN401 - stubs lack half of it
        next_job: Callable[[PriorityQueue], Job | Series | None],
        limit: Callable[[], float] = lambda: math.inf,
    ) -> None:
        self._controller = controller
        self._next_job = next_job
        self._limit = limit
        self._requests = PriorityQueue()
        # The jobs that children have.
        self._jobs: set[Job | Series] = set()
        # kombu's consumer of these requests, on the current connection.
        self._source: Any = None
        # Identifies the wait for a child; the timer of an earlier wait does nothing.
        self._wait: object | None = None
        # Whether the pool was asked for a child.
        self._child_requested = False
        self._paused = False

    def connected(self, source: Any) -> None:  # noqa: ANN401 - kombu's consumer
        """Forget what waits: it comes again on the new connection, whose consumer is `source`."""
        for request in self._requests:
            task_ready(request)
        self._requests.clear()
        # The pool has forgotten the jobs that no child had begun.
        self._jobs = {job for job in self._jobs if job.accepted}
        self._source, self._wait, self._child_requested, self._paused = source, None, False, False

    def add(self, requests: Iterable[LedgerRequest]) -> None:
        """Let requests that have just arrived wait."""
        self._requests.add(requests)
        self._added()

    def add_first(self, requests: Iterable[LedgerRequest]) -> None:
        """Put requests back to the front: no child has begun them, or they are to run alone."""
        self._requests.add_first(requests)
        self._added()

    def ended(self, job: Job | Series) -> None:
        """Record that a job has ended; the pool is about to free its child."""
        self._jobs.discard(job)
        # In the next turn of the event loop: first the job puts its other requests back.
        self._controller.hub.call_soon(self._acquire_child)

    def free(self) -> float:
        """Return how many children are free for such jobs, with the one just taken."""
        free: float = self._controller.semaphore.value + 1
        return max(1, min(free, self._limit() - len(self._jobs)))

    def _added(self) -> None:
        if self._paused:
            self._return_all()
        self._request_child()

    def _request_child(self) -> None:
        if not self._requests or self._wait is not None or lease.told_to_stop():
            return
        wait = self._wait = object()
        self._acquire_child()
        if self._wait is wait:
            self._controller.hub.call_later(BUSY_SECONDS, self._give_up, wait)

    def _acquire_child(self) -> None:
        """Ask the pool for the next free child, if fewer than `limit()` run such jobs."""
        if self._wait is None or self._child_requested:
            return
        if len(self._jobs) < self._limit():
            self._child_requested = True
            self._controller.semaphore.acquire(self._on_free_child)

    def _on_free_child(self) -> None:
        self._wait, self._child_requested = None, False
        if self._paused:
            self._paused = False
            # In the next turn of the event loop: an error of the connection would make billiard
            # lose the result of the job that has just ended.
            self._controller.hub.call_soon(self._consume, self._source)
        job = self._next_job(self._requests) if self._requests else None
        if job is None:
            self._controller.semaphore.release()
        else:
            self._jobs.add(job)
            job.send()
        self._request_child()

    def _consume(self, source: Any) -> None:  # noqa: ANN401 - kombu's
        """Consume again, unless the connection was lost meanwhile: the new one consumes already."""
        if source is self._source:
            source.consume()

    def _give_up(self, wait: object) -> None:
        """Stop consuming and return messages to the broker, until a child is free."""
        if wait is self._wait and not (self._paused or lease.told_to_stop()):
            self._paused = True
            self._source.cancel()
            self._return_all()

    def _return_all(self) -> None:
        """Return messages of this consumer to the broker; keep requests that were acknowledged."""
        kept = []
        for request in self._requests:
            # A message of another channel is of short_tasks, which this worker may still consume.
            if request.acknowledged or request.message.channel is not self._source.channel:
                kept.append(request)
            else:
                request.return_to_broker()
        self._requests.clear()
        self._requests.add(kept)
