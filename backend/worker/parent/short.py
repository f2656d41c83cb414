"""Short tasks, many at a time: the worker's parent process gathers them, a child runs a batch.

While every child is busy the next messages gather, so an idle worker runs a task at once and a busy
one many in a transaction. Each member is a request of Celery's, so `inspect`, events and revokes
see it like any other. After an error in a batch, members run alone: one that raises,
in the same attempt; members whose process was lost, in the next attempt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import bootsteps
from celery.worker.state import task_reserved
from kombu import Consumer

from backend.broker.queues import queue
from backend.db.records import SHORT_TASKS
from backend.registry import registered
from backend.worker.parent.jobs import Job
from backend.worker.parent.request import drop_duplicates
from backend.worker.parent.waiting import WaitingRequests

if TYPE_CHECKING:
    from backend.worker.parent.priority_queue import PriorityQueue

# Enough to spread a commit over many tasks, few enough that a batch takes some tens of
# milliseconds.
MAX_BATCH = 100
# In messages. 16 single tasks make a useful batch; 16 bundles of 100 still fit into memory.
PREFETCH_COUNT = 16
# Celery sends events in groups of this size: two events for each task of a batch.
EVENT_BUFFER = 2 * MAX_BATCH


class ShortTasks(bootsteps.ConsumerStep):
    """Consumes the queue of short tasks, with its own channel and prefetch count."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: object) -> None:  # noqa: ANN401 - Celery's
        super().__init__(consumer, **kwargs)
        self._consumer = consumer
        self._waiting = WaitingRequests(consumer.controller, self._next_job)

    def start(self, c: Any) -> None:  # noqa: ANN401 - Celery's consumer
        """Forget what waited on the last connection, and consume on this one.

        A forgotten task comes again: RabbitMQ delivers it, or the outbox publishes it.
        """
        if not c.takes_short_tasks:
            return
        c.event_dispatcher.buffer_limit = EVENT_BUFFER
        self.consumers = [
            Consumer(
                c.connection.channel(),
                [queue(SHORT_TASKS)],
                on_message=self._on_message,
                on_decode_error=c.on_decode_error,
                accept=["json"],
                prefetch_count=PREFETCH_COUNT,
            )
        ]
        self._waiting.connected(self.consumers[0])

    def stop(self, c: Any) -> None:  # noqa: ANN401 - Celery's consumer
        """Stop consuming, unless the connection is lost, and the consumers with it."""
        if c.connection is not None:
            super().stop(c)

    def shutdown(self, c: Any) -> None:  # noqa: ANN401 - as above
        """Close the channel, unless the connection is lost."""
        if c.connection is not None:
            super().shutdown(c)

    def register_with_event_loop(self, c: Any, hub: object) -> None:  # noqa: ANN401, ARG002 - Celery's
        """Start to consume: before this step the pool takes no work."""
        for consumer in self.consumers or ():
            consumer.consume()

    def _on_message(self, message: Any) -> None:  # noqa: ANN401 - kombu's
        short = []
        for request in self._consumer.requests_in(message):
            if request.revoked():
                continue
            # A later attempt runs alone, because its process may have been lost with a batch. So
            # does one with a time limit of its own.
            if request.delivery.attempt > 1 or request.delivery.time_limit:
                request.shares_job = False
            task_reserved(request)
            if registered()[request.delivery.name].one_commit:
                short.append(request)
            else:  # it was `one_commit` when it was sent, or `celery call` names this queue
                request.shares_job = False
                self._consumer.ordinary_tasks.add(request)
        self._waiting.add(short)

    def _next_job(self, requests: PriorityQueue) -> Job | None:
        """Return the next batch, or an attempt that runs alone."""
        chosen = [requests.pop_first()]
        while chosen[0].shares_job and requests and requests.first().shares_job:
            if len(chosen) == MAX_BATCH:
                break
            chosen.append(requests.pop_first())
        members = drop_duplicates(chosen)
        return Job(self._consumer.controller, members, self._waiting) if members else None
