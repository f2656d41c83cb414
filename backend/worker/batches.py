"""Short tasks, many at a time: the worker's parent process gathers them, a child runs a batch.

While every child is busy the next messages gather, so an idle worker runs a task at once and a busy
one many in a transaction. Each member is a request of Celery's, so that `inspect`, events, revokes
and the lease see it like any other. What goes wrong in a batch runs alone: a member that raises in
the same attempt, members whose process was lost in the next.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Any

from celery import bootsteps
from celery.exceptions import NotRegistered
from celery.worker.state import task_ready, task_reserved
from kombu import Consumer

from backend.celery_app import SHORT_QUEUE, app
from backend.db import ledger
from backend.db.session import transaction
from backend.tasks.registry import registered
from backend.worker import lease
from backend.worker.batch import Member, run_batch
from backend.worker.bundle import unpacked
from backend.worker.request import LedgerRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from backend.worker.batch import Report

logger = logging.getLogger(__name__)

# Enough to spread a commit over many tasks, few enough that a batch takes some tens of
# milliseconds.
BATCH = 100
# Messages: 16 of one task each are worth a batch, 16 bundles of a hundred are no burden.
PREFETCH = 16
# Events of Celery's that are sent together: those of a batch that starts.
EVENTS = 2 * BATCH


class ShortTasks(bootsteps.ConsumerStep):
    """Consumes the queue of short tasks, on a channel and with a prefetch count of its own."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: object) -> None:  # noqa: ANN401 - Celery's
        super().__init__(consumer, **kwargs)
        self._consumer = consumer
        self._gathered: deque[LedgerRequest] = deque()
        self._waits_for_child = False

    def start(self, c: Any) -> None:  # noqa: ANN401 - Celery's consumer
        """Start anew on a new connection: what was gathered on the last one comes again."""
        for request in self._gathered:
            task_ready(request)
        self._gathered.clear()
        self._waits_for_child = False
        c.event_dispatcher.buffer_limit = EVENTS
        self.consumers = [
            Consumer(
                c.connection.channel(),
                [SHORT_QUEUE],
                on_message=self._on_message,
                on_decode_error=c.on_decode_error,
                accept=["json"],
                prefetch_count=PREFETCH,
            )
        ]

    def stop(self, c: Any) -> None:  # noqa: ANN401 - Celery's consumer
        """Stop consuming; a lost connection has taken the consumers with it."""
        if c.connection is not None:
            super().stop(c)

    def shutdown(self, c: Any) -> None:  # noqa: ANN401 - as above
        """Close the channel, unless the connection is lost."""
        if c.connection is not None:
            super().shutdown(c)

    def register_with_event_loop(self, c: Any, hub: object) -> None:  # noqa: ANN401, ARG002
        """Consume from here on: only now can the pool be given work."""
        for consumer in self.consumers or ():
            consumer.consume()

    def _on_message(self, message: Any) -> None:  # noqa: ANN401 - kombu's
        for part in self._consumer.read(unpacked, message) or ():
            request = self._consumer.read(self._request, part)
            if request is not None and not request.revoked():
                task_reserved(request)
                self._gathered.append(request)
        self._ask_for_child()

    def _request(self, message: Any) -> LedgerRequest:  # noqa: ANN401 - kombu's
        name = message.headers["task"]
        if name not in registered():
            raise NotRegistered(name)
        request = LedgerRequest(
            message,
            on_ack=message.ack_log_error,
            on_reject=message.reject_log_error,
            app=app,
            hostname=self._consumer.hostname,
            eventer=self._consumer.event_dispatcher,
            task=app.tasks[name],
            connection_errors=self._consumer.connection_errors,
            body=message.body,
            headers=message.headers,
        )
        request.in_batch = True
        return request

    def _ask_for_child(self) -> None:
        """Take the next free child, in turn with the tasks that run alone."""
        if self._gathered and not self._waits_for_child:
            self._waits_for_child = True
            self._consumer.controller.semaphore.acquire(self._send)

    def _send(self) -> None:
        self._waits_for_child = False
        size = min(BATCH, len(self._gathered))
        members = [self._gathered.popleft() for _ in range(size)]
        # The same task twice is one delivery too many, and a revoke may have come meanwhile.
        by_id = {request.id: request for request in members if not request.revoked()}
        for request in members:
            if by_id.get(request.id) is not request:
                request.acknowledge()
                task_ready(request)
        if by_id:
            _Batch(self._consumer, list(by_id.values())).send()
        else:
            self._consumer.controller.semaphore.release()
        self._ask_for_child()


class _Batch:
    """A batch under way in a child."""

    def __init__(self, consumer: Any, requests: Sequence[LedgerRequest]) -> None:  # noqa: ANN401
        self._controller = consumer.controller
        self._hostname: str = consumer.hostname
        self._requests = {request.id: request for request in requests}
        self._members = [_member(request) for request in requests]

    def send(self) -> None:
        """Give the batch to the free child; where that is impossible its members run alone."""
        try:
            self._apply()
        except Exception as error:  # noqa: BLE001 - it must not end the event loop
            reason = type(error).__name__
        else:
            return
        logger.warning("a batch could not be sent (%s); its short tasks run alone", reason)
        self._controller.semaphore.release()
        self._run_alone(self._requests.values())

    def _run_alone(self, requests: Iterable[LedgerRequest]) -> None:
        for request in requests:
            request.leave_batch()
            self._controller.process_task(request)

    def _apply(self) -> None:
        limit = max(registered()[member.name].time_limit for member in self._members)
        self._controller.pool.apply_async(
            run_batch,
            (self._hostname, self._members),
            accept_callback=self._on_accepted,
            callback=self._on_done,
            error_callback=self._on_lost,
            timeout_callback=self._on_timeout,
            timeout=limit,
        )

    def _on_accepted(self, pid: int, time_accepted: float) -> None:
        for request in self._requests.values():
            if request.task.send_events:
                request.send_event(
                    "task-received",
                    name=request.name,
                    args=request.argsrepr,
                    kwargs=request.kwargsrepr,
                    retries=0,
                    eta=None,
                    expires=None,
                    root_id=request.root_id,
                    parent_id=request.parent_id,
                )
            request.on_accepted(pid, time_accepted)  # type: ignore[arg-type]  # wrong in the stubs

    def _on_done(self, report: Report) -> None:
        for task_id, result in report.succeeded.items():
            request = self._requests[task_id]
            task_ready(request, successful=True)
            request.send_event("task-succeeded", result=result, runtime=report.seconds)
        for task_id in report.dropped:
            task_ready(self._requests[task_id])
        self._run_alone(self._requests[task_id] for task_id in report.alone)

    def _on_timeout(self, soft: bool, timeout: float) -> None:  # noqa: FBT001 - billiard's callback
        if len(self._requests) == 1:
            next(iter(self._requests.values())).on_timeout(soft, timeout)

    def _on_lost(self, failure: Any) -> None:  # noqa: ANN401 - billiard's ExceptionInfo
        """The child was killed, by what it ran or by its time limit."""
        if len(self._requests) == 1:
            # There is no doubt whose fault it was: it counts as any lost attempt.
            next(iter(self._requests.values())).on_failure(failure)
            return
        for request in self._requests.values():
            task_ready(request)
        lease.report(_Lost({member.task_id: member.attempt for member in self._members}))


class _Lost:
    """A batch whose child was lost, to be recorded by the lease's thread."""

    def __init__(self, attempts: Mapping[str, int]) -> None:
        self._attempts = attempts

    def record(self) -> None:
        """Have its tasks run again, each alone. Raises StoreUnavailable."""
        with transaction() as connection:
            ledger.lock(connection, self._attempts)
            again = ledger.reschedule(connection, self._attempts, None, waiting=True, free=True)
        logger.warning(
            "a process was lost; of its short tasks (%d) run again, alone: %d",
            len(self._attempts),
            len(again),
        )


def _member(request: LedgerRequest) -> Member:
    headers = request.request_dict
    return Member(
        request.id,
        request.attempt,
        headers["task"],
        headers["args"],
        headers.get("reply_to"),
    )
