"""What the worker's event loop publishes: events, heartbeats, and answers to control commands.

Celery retries these without limit, and a loop that waits for the broker runs no tasks.
"""

from __future__ import annotations

from typing import Any

import kombu.pidbox
from celery.events import EventDispatcher
from kombu import Exchange

from backend.broker.hints import Hints

_hints = Hints()


class Dispatcher(EventDispatcher):
    """Celery's dispatcher of events, without retries and without a buffer for outages."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Celery watches this one's heartbeats, and closes it: nothing is published on it.
        self.connection = None
        self.buffer_while_offline = False

    def _publish(self, event: Any, producer: object, routing_key: str, **_: object) -> None:  # noqa: ANN401 - one event or many
        if producer is not None:
            publish = super()._publish  # type: ignore[misc]  # missing in the stubs
            _hints.send(lambda own: publish(event, own, routing_key))


class Node(kombu.pidbox.Node):
    """Answers `inspect` and `control` for the worker, without retries."""

    mailbox: Any  # the stubs leave out half of it

    def reply(
        self,
        data: object,
        exchange: Any,  # noqa: ANN401 - a name, in what Celery sends
        routing_key: str,
        ticket: str | None,
        **_: object,
    ) -> None:
        """Send an answer, or drop it if the broker does not take it at once."""
        target = Exchange(exchange, "direct", durable=False, delivery_mode="transient")
        headers = {"ticket": ticket, "clock": self.mailbox.clock.forward()}
        _hints.send(
            lambda producer: producer.publish(
                data,
                exchange=target,
                routing_key=routing_key,
                declare=[target],
                headers=headers,
                serializer=self.mailbox.serializer,
            )
        )
