"""A series: a job of ordinary attempts that a child runs one after the other.

The parent does not know which attempt the child is running until it looks at the tickets. It looks
every LOOK_SECONDS. If the child has begun no other attempt since the last look, the parent takes
the rest back, for other children: then the job is that one attempt, with its time limit.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from celery.worker.state import task_ready

from backend.registry import registered
from backend.worker import durations
from backend.worker.attempt.execute import execute
from backend.worker.parent import held, lease
from backend.worker.parent.jobs import end_requests
from backend.worker.parent.unreported import (
    read_outcomes,
    reschedule_unstarted,
    start_attempt,
)
from backend.worker.tickets import of_child

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from backend.worker.attempt.report import Report
    from backend.worker.parent.request import LedgerRequest
    from backend.worker.parent.waiting import WaitingRequests
    from backend.worker.tickets import Tickets

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.1
# While a long attempt runs, the outcomes of earlier ones are read from the ledger: the interval,
# and how many times the read is repeated.
EARLIER_SECONDS = 2.0
EARLIER_LOOKS = 3
# A child that has begun no attempt is killed after this time.
UNBEGUN_SECONDS = 60.0


class Series:
    """Attempts given to a free child, to be run in order.

    The caller has taken a child from `controller.semaphore`; the pool releases it when the job
    ends. `waiting` gets the requests that the child has not begun, and learns when the job has
    ended.
    """

    def __init__(
        self,
        controller: Any,  # noqa: ANN401 - stubs lack half of it
        requests: Sequence[LedgerRequest],
        waiting: WaitingRequests,
    ) -> None:
        self._controller = controller
        self._waiting = waiting
        # Whether a child has begun it.
        self.accepted = False
        # Those that the child may still begin or has begun, in order.
        self._requests = list(requests)
        self._tickets: Tickets | None = None
        # The process id of the child, and when it has begun the job.
        self._accepted_by: tuple[int, float] = 0, 0.0
        self._left = 0
        self._ended = False
        # The request that takes long.
        self._current: LedgerRequest | None = None

    def send(self) -> None:
        """Give the job to the pool. If that is impossible, each attempt is sent alone."""
        try:
            self._result = self._controller.pool.apply_async(
                execute,
                (self._controller.hostname, [request.delivery for request in self._requests]),
                {"series": True},
                accept_callback=self._on_accepted,
                callback=self._on_done,
                error_callback=self._on_lost,
            )
        except Exception as error:  # noqa: BLE001 - it must not end the event loop
            logger.warning(
                "attempts could not be sent together (%s); each is sent alone: %d",
                type(error).__name__,
                len(self._requests),
            )
            self._controller.semaphore.release()
            self._waiting.ended(self)
            for request in self._requests:
                request.leave_job()
            self._waiting.add_first(self._requests)

    def _on_accepted(self, pid: int, time_accepted: float) -> None:
        self.accepted = True
        self._accepted_by = pid, time_accepted
        children = self._controller.pool._pool._pool  # noqa: SLF001 - no other way to `index`
        child = next((child.index for child in children if child.pid == pid), None)
        if child is None:  # it has ended already; the pool reports that next
            return
        self._tickets = tickets = of_child(child)
        if tickets is None:  # the child reports that it cannot run them together
            return
        self._left = len(self._requests)
        tickets.issue(self._left)
        held.series.add(self)
        self._look_later()

    def last_begun(self) -> LedgerRequest | None:
        """Return the attempt that the child has begun last; called by the lease's thread."""
        requests, tickets_left = self._requests, self._tickets.left() if self._tickets else 0
        count = len(requests) - tickets_left
        return requests[count - 1] if 0 < count <= len(requests) else None

    def _look_later(self) -> None:
        self._controller.hub.call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        """Take the rest back if the child has begun no attempt since the last look."""
        if self._ended or self._tickets is None:
            return
        left, before = self._tickets.left(), self._left
        self._left = left
        if left < before:
            self._look_later()
        else:
            self._trim()

    def _trim(self) -> None:
        """Take back what is not begun; treat the long attempt like one that was sent alone."""
        begun = self._take_rest()
        if not begun:  # the child hangs, or waits for PostgreSQL
            self._limit(UNBEGUN_SECONDS)
            return
        *earlier, current = begun
        self._current = current
        self._limit(registered()[current.delivery.name].time_limit)
        # It is STARTED now or soon, so the lease must list it.
        current.shares_job = False
        self._begin(current)
        # Note a time that makes the task's average long at once.
        durations.note(current.delivery.name, 2 * LOOK_SECONDS)
        if self._tickets and self._tickets.locked:
            # The child has locked the row. If it is frozen, PostgreSQL unlocks the row, and another
            # worker could run the task. (A child that has not locked it claims the attempt itself.)
            lease.write_soon(partial(start_attempt, self._controller.hostname, current.delivery))
        for request in earlier:
            request.acknowledge()
        self._ask_for_earlier(EARLIER_LOOKS)

    def _limit(self, seconds: float) -> None:
        """Let the pool kill the child in `seconds`, unless the job has ended."""
        result: Any = self._result
        result._timeout = seconds  # noqa: SLF001 - for the error's text
        # While the worker stops, billiard uses no timer, but adds the limit to this time.
        result._time_accepted = time.monotonic()  # noqa: SLF001 - the same
        result._on_timeout_set(result, None, seconds)  # noqa: SLF001 - billiard's own way

    def _ask_for_earlier(self, looks: int) -> None:
        if not self._ended and (earlier := self._earlier()):
            lease.write_soon(partial(self._report_earlier, list(earlier), looks))

    def _report_earlier(self, task_ids: Sequence[str], looks: int) -> None:
        """Read the outcomes of earlier attempts from the ledger."""
        self._controller.hub.call_soon(self._end_earlier, read_outcomes(task_ids), looks)

    def _end_earlier(self, report: Report, looks: int) -> None:
        if self._ended:
            return
        self._end(report)
        if looks:
            # The child may not have written them yet.
            self._controller.hub.call_later(EARLIER_SECONDS, self._ask_for_earlier, looks - 1)
        elif earlier := self._earlier():
            # They will not be written: the child is frozen, or the long attempt lets no other
            # thread run.
            self._run_again(list(earlier.values()))

    def _earlier(self) -> dict[str, LedgerRequest]:
        """Return the requests, by task id, that the child had before the long one."""
        return {each.id: each for each in self._requests if each is not self._current}

    def _run_again(self, requests: Collection[LedgerRequest]) -> None:
        """Reschedule tasks whose outcomes are lost, which uses up no attempt."""
        numbers = {request.id: request.delivery.attempt for request in requests}
        for request in requests:
            request.acknowledge()
            task_ready(request)
        self._requests = [request for request in self._requests if request.id not in numbers]
        if numbers:
            lease.write_soon(partial(reschedule_unstarted, numbers))

    def give_rest_back(self) -> None:
        """Take back what is not begun, because the worker stops."""
        self._take_rest()

    def _take_rest(self) -> list[LedgerRequest]:
        """Take back what the child has not begun; return what it has begun."""
        count = self._tickets.take_rest() if self._tickets else len(self._requests)
        begun = self._requests[: len(self._requests) - count]
        rest = self._requests[len(begun) :]
        self._requests = begun
        if rest:
            self._waiting.add_first(rest)
        return begun

    def _begin(self, request: LedgerRequest) -> None:
        """Do what Celery does when an attempt begins: send an event, list it, acknowledge."""
        request.announce()
        request.on_accepted(*self._accepted_by)  # type: ignore[arg-type]  # wrong in the stubs

    def _end(self, report: Report) -> None:
        """End the requests whose outcomes are in the report; Celery learns now that they began."""
        found = {request.id: request for request in self._requests if request.id in report.ended}
        for request in found.values():
            if request is not self._current:
                request.forget_kill()
                self._begin(request)
        end_requests(found, report)
        self._requests = [request for request in self._requests if request.id not in found]

    def _on_done(self, report: Report) -> None:
        self._ended = True
        self._waiting.ended(self)
        held.series.discard(self)
        begun = self._take_rest()
        for request in begun if not self._current else ():
            durations.note(request.delivery.name, report.seconds / len(begun))
        self._end(report)
        alone = [request for request in self._requests if request.id in report.alone]
        for request in self._requests:
            if request.id in report.alone:
                request.leave_job()
            else:
                request.acknowledge()
                task_ready(request)
        self._waiting.add_first(alone)

    def _on_lost(self, failure: Any) -> None:  # noqa: ANN401 - billiard's ExceptionInfo
        """Record the loss of the child as an error of the attempt that it had begun last."""
        self._ended = True
        self._waiting.ended(self)
        held.series.discard(self)
        begun = self._take_rest()
        if not begun:
            return
        *earlier, current = begun
        if not self._current:
            self._begin(current)
            current.shares_job = False
        error = failure.exception
        current.child_lost(getattr(error, "exc", error))
        self._run_again(earlier)
