"""Celery's consumer, changed: it drops messages that would stop Celery, and starts our jobs."""

from __future__ import annotations

import logging
import time
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from celery.exceptions import InvalidTaskError, NotRegistered
from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown

from backend.broker import wire
from backend.broker.bundle import split_bundle
from backend.broker.connection import BROKER_ERRORS
from backend.broker.outage import broker_outage, explain
from backend.broker.queues import prefixed
from backend.db.records import SHORT_TASKS
from backend.worker.parent import activity, lease, malformed
from backend.worker.parent.hang import TICK_SECONDS, EventLoopWatch
from backend.worker.parent.request import part_of_bundle
from backend.worker.stray_messages import note_dropped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from backend.worker.parent.ordinary import OrdinaryTasks
    from backend.worker.parent.request import LedgerRequest

logger = logging.getLogger(__name__)

T = TypeVar("T")


class LedgerConsumer(Consumer):
    """Celery's consumer, which no message can stop.

    An error while a message is read or made into a request drops that message. Only an error of an
    acknowledgement is taken for the broker's; then Celery connects again. The class of an error
    does not show its cause: on Redis, Celery takes KeyError (a missing header) for a lost
    connection too.
    """

    _watch: EventLoopWatch
    ordinary_tasks: OrdinaryTasks
    # Whether this connection has begun to consume.
    _ready = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._activity = activity.ActivityLog()
        queues: Any = self.app.amqp.queues
        # Whether short.py consumes their queue; then Celery's own consumer leaves it out.
        self.takes_short_tasks = prefixed(SHORT_TASKS) in queues.consume_from
        queues.deselect(prefixed(SHORT_TASKS))

    def connection_for_read(self, heartbeat: float | None = None) -> Any:  # noqa: ANN401 - kombu's
        """Return a connection whose channels drop entries that kombu cannot read."""
        # Reconnecting counts as a tick: the event loop runs only after all bootsteps.
        self._watch.tick()
        connection = self.app.connection_for_read(heartbeat=heartbeat)
        malformed.tolerate(connection)
        return self.ensure_connected(connection)

    def ensure_connected(self, conn: Any) -> Any:  # noqa: ANN401 - kombu's
        """Connect, trying again until it succeeds; return the connection."""
        while True:
            try:
                return conn.ensure_connection(max_retries=0, reraise_as_library_errors=False)
            except BROKER_ERRORS as error:
                self._pause(error)

    def _pause(self, error: BaseException) -> None:
        """Wait until the broker may be tried again.

        Raises WorkerShutdown or WorkerTerminate if the worker was told to stop.
        """
        until = time.monotonic() + broker_outage.failed(explain(error), "consumer")
        while time.monotonic() < until:
            maybe_shutdown()
            self._watch.tick()
            lease.kill_lost()  # nothing else would: the event loop does not run here
            time.sleep(0.1)

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Pause, because the broker refused a step before consuming began."""
        self._pause(exc)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Drop the connection; pause if the broker refused a step before consuming began."""
        with warnings.catch_warnings():
            # Celery warns at each lost connection that running tasks go on, which we want.
            warnings.simplefilter("ignore", PendingDeprecationWarning)
            super().on_connection_error_after_connected(exc)
        if self._ready:
            broker_outage.failed(explain(exc), "consumer")
        else:
            self._pause(exc)
        self._ready = False

    def on_close(self) -> None:
        """Forget what the lost connection has brought."""
        super().on_close()
        worker: Any = self.controller  # type: ignore[attr-defined]  # missing in the stubs
        # Celery now counts every place as free, but some still have jobs.
        worker.semaphore.value = max(0, worker.semaphore.value - worker.pool.busy())

    def on_ready(self) -> None:
        """Record that this connection consumes, and report the success."""
        super().on_ready()
        self._ready = True
        broker_outage.succeeded("consumer")

    def start(self) -> None:
        """Consume until told to stop; watched from here on, when all children have been forked."""
        self._watch = EventLoopWatch(lease.end_now)
        super().start()

    def stop(self) -> None:
        """Stop consuming."""
        self._watch.stop()
        super().stop()

    def register_with_event_loop(self, hub: Any) -> None:  # noqa: ANN401 - kombu's
        """Start Celery's parts, and the tick that shows that the event loop runs."""
        super().register_with_event_loop(hub)
        hub.call_repeatedly(TICK_SECONDS, self._watch.tick)
        hub.call_repeatedly(activity.SECONDS, self._activity.report)

    def connection_for_write(self, *_: Any, **__: Any) -> Any:  # noqa: ANN401 - kombu's
        """Return the consumer's own connection.

        Celery asks for one to publish events; ours use another (events.py).
        """
        return self.connection

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        """Return Celery's handler of messages, which drops those that cannot be read."""
        handle = super().create_task_handler(*args, **kwargs)

        def read(message: Any) -> None:  # noqa: ANN401 - kombu's
            # Decode it first: Celery's handler itself acknowledges a message that it cannot decode.
            if wire.BUNDLE_HEADER in message.headers:
                self.ordinary_tasks.add_bundle(message)
                return
            message.decode()
            handle(message)

        return partial(self.read, read)

    def requests_in(self, message: Any) -> Iterator[LedgerRequest]:  # noqa: ANN401 - kombu's
        """Yield a request for each readable task of a bundle, or of a message of one task."""
        for part in self.read(split_bundle, message) or ():
            request = self.read(partial(part_of_bundle, consumer=self), part)
            if request is not None:
                yield request

    def read(self, how: Callable[[Any], T], message: Any) -> T | None:  # noqa: ANN401 - kombu's
        """Return how(message); if that raises, drop the message and return None.

        Raises only what the acknowledgement raises.
        """
        try:
            if message.errors:
                message._reraise_error()  # noqa: SLF001 - as kombu's Consumer does
            return how(message)
        except Exception as error:  # noqa: BLE001 - any message
            reason = error
        self.on_decode_error(message, reason)
        return None

    def on_decode_error(self, message: Any, exc: Exception) -> None:  # noqa: ANN401 - kombu's
        """Log a message once, without its arguments, and acknowledge it."""
        headers = message.headers
        extra = wire.log_extra(headers)
        if isinstance(exc, NotRegistered):
            logger.warning(
                "this worker has no task %s: its message is dropped, and published again later if"
                " the ledger has it; update this worker",
                str(exc.args[0])[:100],
                extra=extra,
            )
            if task_id := wire.ledger_task_id(headers):
                queue = str(message.delivery_info.get("routing_key"))
                lease.write_soon(partial(note_dropped, self.hostname, queue, [task_id]))
        elif isinstance(exc, wire.OtherVersion):
            logger.warning(
                "a message of another version is dropped, and published again later: update all"
                " relays and workers",
                extra=extra,
            )
        else:
            logger.error(
                "a message in queue %s cannot be read and is dropped (%s: %s); content type %s",
                message.delivery_info.get("routing_key"),
                type(exc).__name__,
                str(exc)[:200],
                message.content_type,
                extra=extra,
            )
        message.ack()

    def on_unknown_task(self, body: object, message: Any, exc: Exception) -> NoReturn:  # noqa: ANN401, ARG002 - Celery's signature
        """Raise NotRegistered for the message of a task that only a newer version knows.

        Its row stays in the outbox, so it is published again with growing delay until there is a
        worker that knows the task. Celery would fail the task.
        """
        raise NotRegistered(*exc.args) from exc

    def on_unknown_message(self, body: object, message: Any) -> NoReturn:  # noqa: ANN401, ARG002 - as above
        """Raise InvalidTaskError for a message that names no task."""
        raise InvalidTaskError("it names no task")

    def on_invalid_task(self, body: object, message: Any, exc: Exception) -> NoReturn:  # noqa: ANN401, ARG002 - as above
        """Raise the error of a message that does not fit its task."""
        raise exc
