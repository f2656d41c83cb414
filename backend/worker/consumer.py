"""What the worker does with messages that Celery would fail or lose."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from celery.worker.consumer import Consumer

from backend.celery_app import ATTEMPT_HEADER, BROKER_ERRORS
from backend.telemetry import about
from backend.worker import lease
from backend.worker.watch import TICK_SECONDS, EventLoopWatch

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)


class LedgerConsumer(Consumer):
    """Celery's consumer, but for what would fail a task or the worker without need."""

    _watch: EventLoopWatch

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

    def connection_for_write(self, *_: Any, **__: Any) -> Any:  # noqa: ANN401 - kombu's
        """Return the consumer's connection instead of another that nothing is published on.

        Celery asks for events; ours have their own (events.py).
        """
        return self.connection

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        """Return Celery's handler of messages."""
        return self.guarded(super().create_task_handler(*args, **kwargs))

    def guarded(self, handle: Callable[[Any], None]) -> Callable[[Any], None]:
        """Return a handler of messages that one of another shape does not get past."""

        def handle_guarded(message: Any) -> None:  # noqa: ANN401 - kombu's
            try:
                handle(message)
            except BROKER_ERRORS:
                raise
            except Exception as error:  # noqa: BLE001 - whatever was sent
                self.on_decode_error(message, error)

        return handle_guarded

    def on_unknown_task(self, body: object, message: Any, exc: Exception) -> None:  # noqa: ANN401, ARG002 - Celery's signature
        """Drop the message of a task that only a newer version knows, instead of failing the task.

        Its row in the outbox stays, so it is published again with growing delay until a worker
        that knows it is there.
        """
        logger.warning(
            "there is no task %s here: its message is dropped, and published again later if the"
            " ledger has it; update this worker",
            message.headers.get("task"),
            extra=about(message.headers.get("id"), message.headers.get(ATTEMPT_HEADER, 1)),
        )
        errors = self.connection_errors  # type: ignore[attr-defined]  # missing in the stubs
        message.ack_log_error(logger, errors)
