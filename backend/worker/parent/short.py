"""Short tasks, many at a time: the worker's parent process gathers them, a child runs a batch.

While every child is busy the next messages gather, so an idle worker runs a task at once and a busy
one many in a transaction. Each member is a request of Celery's, so that `inspect`, events, revokes
and the lease see it like any other. After an error in a batch, members run alone: one that raises,
in the same attempt; members whose process was lost, in the next attempt.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from celery import bootsteps
from celery.worker.state import task_ready, task_reserved
from kombu import Consumer

from backend.broker import wire
from backend.broker.app import app
from backend.broker.queues import SHORT_QUEUE
from backend.registry import registered
from backend.worker.parent.jobs import Job
from backend.worker.parent.request import LedgerRequest

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
        self._gathered: deque[LedgerRequest] = deque()
        self._waits_for_child = False

    def start(self, c: Any) -> None:  # noqa: ANN401 - Celery's consumer
        """Forget what was gathered on the last connection, and consume on this one.

        A forgotten task comes again: RabbitMQ delivers it, or the outbox publishes it.
        """
        for request in self._gathered:
            task_ready(request)
        self._gathered.clear()
        self._waits_for_child = False
        c.event_dispatcher.buffer_limit = EVENT_BUFFER
        self.consumers = [
            Consumer(
                c.connection.channel(),
                [SHORT_QUEUE],
                on_message=self._on_message,
                on_decode_error=c.on_decode_error,
                accept=["json"],
                prefetch_count=PREFETCH_COUNT,
            )
        ]

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
        for part in self._consumer.read(wire.split_bundle, message) or ():
            request = self._consumer.read(self._request, part)
            if request is None or request.revoked():
                continue
            task_reserved(request)
            if registered()[request.delivery.name].one_commit:
                self._gathered.append(request)
            else:  # it was `one_commit` when it was sent, or `celery call` names this queue
                request.in_batch = False
                self._consumer.controller.process_task(request)
        self._ask_for_child()

    def _request(self, message: Any) -> LedgerRequest:  # noqa: ANN401 - kombu's
        request = LedgerRequest(
            message,
            on_ack=message.ack_log_error,
            on_reject=message.reject_log_error,
            app=app,
            hostname=self._consumer.hostname,
            eventer=self._consumer.event_dispatcher,
            task=app.tasks[message.headers["task"]],
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
        size = min(MAX_BATCH, len(self._gathered))
        members = [self._gathered.popleft() for _ in range(size)]
        # Drop duplicates, and tasks that were revoked while they waited here.
        by_id = {request.id: request for request in members if not request.revoked()}
        for request in members:
            if by_id.get(request.id) is not request:
                request.acknowledge()
                task_ready(request)
        if by_id:
            Job(self._consumer.controller, list(by_id.values())).send()
        else:
            self._consumer.controller.semaphore.release()
        self._ask_for_child()
