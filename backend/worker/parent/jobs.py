"""Attempts under way in a child process, as the worker's parent process sees them."""

from __future__ import annotations

import logging
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

from celery.worker.state import task_ready

from backend.registry import registered
from backend.states import FAILURE, RETRY, SUCCESS
from backend.worker import durations
from backend.worker.attempt.execute import execute
from backend.worker.parent import activity, lease
from backend.worker.parent.unreported import reschedule_unstarted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from backend.worker.attempt.report import Report
    from backend.worker.parent.request import LedgerRequest
    from backend.worker.parent.waiting import WaitingRequests

logger = logging.getLogger(__name__)

# Celery's events, which Flower shows.
_EVENTS = {SUCCESS: "task-succeeded", RETRY: "task-retried", FAILURE: "task-failed"}


class Job:
    """One attempt, or a batch of short ones, given to a free child.

    The caller has taken a child from `controller.semaphore`; the pool releases it when the job
    ends. `waiting` gets the requests that run alone later, and learns when the job has ended.
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
        self._requests = {request.id: request for request in requests}
        # None for a batch: it is unknown which of its attempts has caused an error.
        self._single = requests[0] if len(requests) == 1 else None

    def send(self) -> None:
        """Give the job to the pool.

        If that is impossible, for example because arguments are nested too deeply, a single attempt
        fails, and the members of a batch run alone.
        """
        try:
            self._apply()
        except Exception as error:  # noqa: BLE001 - it must not end the event loop
            self._controller.semaphore.release()
            self._waiting.ended(self)
            self._not_sent(error)

    def _not_sent(self, error: Exception) -> None:
        if self._single:
            self._single.acknowledge()
            self._single.end_with(error)
            return
        logger.warning(
            "a batch could not be sent (%s); its short tasks run alone", type(error).__name__
        )
        self._run_alone(self._requests)

    def _apply(self) -> None:
        requests = self._requests.values()
        limit = max(registered()[request.delivery.name].time_limit for request in requests)
        soft_limit = None
        if self._single:
            given_limit, soft_limit = self._single.time_limits
            limit = given_limit or limit
        result = self._controller.pool.apply_async(
            execute,
            (self._controller.hostname, [request.delivery for request in requests]),
            accept_callback=self._on_accepted,
            callback=self._on_done,
            error_callback=self._on_lost,
            timeout_callback=self._on_timeout,
            timeout=limit,
            soft_timeout=soft_limit,
        )
        if self._single and result is not None:
            self._single.set_pool_result(weakref.ref(result))

    def _on_accepted(self, pid: int, time_accepted: float) -> None:
        self.accepted = True
        for request in self._requests.values():
            request.announce()
            # A single attempt may be STARTED, so the lease has to hold it.
            request.shares_job = self._single is None
            request.on_accepted(pid, time_accepted)  # type: ignore[arg-type]  # wrong in the stubs

    def _on_done(self, report: Report) -> None:
        self._waiting.ended(self)
        if self._single:
            durations.note(self._single.delivery.name, report.seconds)
        end_requests(self._requests, report)
        for task_id in self._requests.keys() - report.ended.keys() - set(report.alone):
            task_ready(self._requests[task_id])
        self._run_alone(report.alone)

    def _on_timeout(self, soft: bool, timeout: float) -> None:  # noqa: FBT001 - billiard's callback
        # A hard limit is also reported as a lost child.
        if soft and self._single:
            self._single.on_timeout(soft, timeout)

    def _on_lost(self, failure: Any) -> None:  # noqa: ANN401 - billiard's ExceptionInfo
        """Record that the child was killed, by what it ran or by its time limit."""
        self._waiting.ended(self)
        if self._single:
            # billiard wraps an error to keep its traceback.
            error = failure.exception
            self._single.child_lost(getattr(error, "exc", error))
            return
        for request in self._requests.values():
            task_ready(request)
        numbers = {task_id: request.delivery.attempt for task_id, request in self._requests.items()}
        lease.write_soon(partial(reschedule_unstarted, numbers))

    def _run_alone(self, task_ids: Iterable[str]) -> None:
        requests = [self._requests[task_id] for task_id in task_ids]
        for request in requests:
            request.leave_job()
        self._waiting.add_first(requests)


def end_requests(requests: Mapping[str, LedgerRequest], report: Report) -> None:
    """End the requests of the report's outcomes, and send Celery's events about them."""
    for task_id, request in requests.items():
        if task_id not in report.ended:
            continue
        state, text = report.ended[task_id]
        task_ready(request, successful=state == SUCCESS)
        if state == SUCCESS:
            request.send_event(_EVENTS[state], result=text, runtime=report.seconds)
        else:
            activity.count_failure()
            request.send_event(_EVENTS[state], exception=text, traceback=report.traceback)
