"""Publishes in batches; the broker confirms or refuses each message."""

from __future__ import annotations

import time
from itertools import chain
from typing import TYPE_CHECKING, Any

from kombu import Producer

from backend.broker.connection import connect
from backend.broker.queues import queue
from backend.broker.wire import encode
from backend.registry import queue_names

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Sequence

    from backend.broker.pack import Outgoing

# How long the broker may take to confirm a batch; after that it is published again.
CONFIRM_SECONDS = 10.0
# How long it may take to confirm a probe; after that we assume that it takes no messages.
PROBE_SECONDS = 1.0
# How long one read of the connection waits; a relay that is told to stop stops within it.
READ_SECONDS = 0.5
# A broker that is silent for twice this time is considered away.
HEARTBEAT_SECONDS = 20
# The name of relay and reconciler in an outage of the broker. They share one name, so that a
# success of the relay also ends an outage of the reconciler, which seldom asks the broker.
RELAY_PART = "relay"
# The routing key of no queue: the broker confirms such a message and drops it.
PROBE_KEY = "tasks-api.probe"
PROBES = 2


class Publisher:
    """A connection to the broker that publishes and counts confirms.

    `blocked` is true while RabbitMQ has an alarm (memory or disk) and reads nothing from this
    connection. RabbitMQ says so when something is published. What was published before is confirmed
    when the alarm has cleared, so the connection must be kept. `attend` must be called every few
    seconds. After any error the connection cannot be used: close it and make another.
    """

    def __init__(
        self, stopping: threading.Event, on_blocked: Callable[[bool], None] | None = None
    ) -> None:
        """Connect. `on_blocked` is called when `blocked` changes.

        When `stopping` is set, `publish` no longer waits for a broker that blocks.
        """
        self.blocked = False
        self._stopping = stopping
        self._on_blocked = on_blocked
        self._connection = connect(HEARTBEAT_SECONDS, survives_alarm=True)
        channel: Any = self._connection.channel()  # py-amqp's has more than the stubs say
        self._channel = channel
        self._declare(queue_names())
        self._confirms = self._connection.transport.driver_type == "amqp"
        # By tag: queue and task ids of each unconfirmed message. By queue: how many were refused.
        self._unconfirmed: dict[int, tuple[str, list[str]]] = {}
        self.refused: dict[str, int] = {}
        self._tag = 0
        if self._confirms:
            raw: Any = self._connection.connection
            raw.on_blocked = lambda _reason: self._block(blocked=True)
            raw.on_unblocked = lambda: self._block(blocked=False)
            channel.confirm_select()
            channel.events["basic_ack"].add(self._on_ack)
            channel.events["basic_nack"].add(self._on_nack)
        self._producer: Any = Producer(self._channel, auto_declare=False)  # the stubs lack batch()

    def publish(self, messages: Sequence[Outgoing]) -> None:
        """Publish messages; return when the broker has confirmed or refused each.

        Then `refused` has the number of tasks whose messages the broker refused, by queue. Returns
        early if it is to stop while the broker blocks. Raises one of BROKER_ERRORS. In both cases
        `unconfirmed` returns what the broker may not have.
        """
        self.refused = {}
        # Set before the first byte is sent: after any error, only confirmed messages count as
        # published.
        self._unconfirmed = {
            self._tag + place: (message.queue, message.task_ids)
            for place, message in enumerate(messages, start=1)
        }
        # On Redis the batch is sent and answered as a whole; with RabbitMQ this does nothing.
        with self._producer.batch(max_size=len(messages)):
            for message in messages:
                self._send(*encode(message))
                # Each publish first reads what the broker sent, so `blocked` is current. While
                # blocked, send no more: once the connection's buffer is full, the write hangs and
                # does not notice the end of the alarm.
                while self.blocked:
                    if self._stopping.is_set():
                        return
                    self.attend(READ_SECONDS)
        self._await_confirms()

    def unconfirmed(self) -> list[str]:
        """Return the ids of the last batch that the broker may not have."""
        return list(chain.from_iterable(ids for _, ids in self._unconfirmed.values()))

    def takes_messages(self) -> bool:
        """Return whether the broker reads what is published; waits up to PROBE_SECONDS.

        It publishes two messages to no queue and waits for their confirms: RabbitMQ confirms the
        first one even during an alarm, and only then blocks the connection. While they are
        unconfirmed, no others are sent, and this connection must not be used for anything else.
        """
        if not self._confirms:
            return True
        if not self._unconfirmed:
            self._unconfirmed = {self._tag + place: ("", []) for place in range(1, PROBES + 1)}
            for _ in range(PROBES):
                self._send("", {"routing_key": PROBE_KEY})
        deadline = time.monotonic() + PROBE_SECONDS
        while self._unconfirmed and time.monotonic() < deadline:
            self.attend(PROBE_SECONDS / 10)
        return not self._unconfirmed

    def waiting(self, names: Iterable[str]) -> dict[str, int] | None:
        """Return how many messages wait in queues, by their names without QUEUE_PREFIX.

        Makes the queues that are missing.

        None while the broker does not read this connection.
        """
        if self._unconfirmed and not self.takes_messages():
            return None
        return self._declare(names)

    def _declare(self, names: Iterable[str]) -> dict[str, int]:
        """Make the queues that are missing; return how many messages wait in each."""
        counts = {}
        for name in names:
            bound: Any = queue(name)(self._channel)  # wrong in the stubs
            bound.declare()
            counts[name] = int(bound.queue_declare().message_count)
        return counts

    def attend(self, timeout: float = 0) -> None:
        """Read what the broker sends for up to `timeout` seconds; keep the connection alive.

        Raises one of BROKER_ERRORS if the broker has been silent for two heartbeats.
        """
        if not self._confirms:
            return
        try:
            self._connection.drain_events(timeout=timeout)
        except TimeoutError:
            # `rate` is how many heartbeats go out in HEARTBEAT_SECONDS. A broker that blocks sends
            # its own and reads none: ours would fill the connection until a write hangs.
            rate: Any = 1e-9 if self.blocked else 2  # any number will do, the stubs say int
            self._connection.heartbeat_check(rate)

    def close(self) -> None:
        """Drop the connection without waiting for the broker."""
        self._connection.collect()

    def _send(self, body: str, options: dict[str, Any]) -> None:
        self._producer.publish(body, **options)
        self._tag += 1

    def _await_confirms(self) -> None:
        """Wait up to CONFIRM_SECONDS for confirms; the time begins again when a block ends."""
        if not self._confirms:
            self._unconfirmed.clear()
        deadline = time.monotonic() + CONFIRM_SECONDS
        while self._unconfirmed:
            now = time.monotonic()
            if self.blocked:
                if self._stopping.is_set():
                    return
                deadline = now + CONFIRM_SECONDS
            elif now > deadline:
                raise TimeoutError("the broker did not confirm in time")
            self.attend(READ_SECONDS)

    def _block(self, *, blocked: bool) -> None:
        self.blocked = blocked
        if self._on_blocked is not None:
            self._on_blocked(blocked)

    def _on_ack(self, tag: int, multiple: bool) -> None:  # noqa: FBT001 - py-amqp's callback
        for confirmed in self._tags(tag, multiple=multiple):
            del self._unconfirmed[confirmed]

    def _on_nack(self, tag: int, multiple: bool) -> None:  # noqa: FBT001 - py-amqp's callback
        for refused in self._tags(tag, multiple=multiple):
            queue, ids = self._unconfirmed.pop(refused)
            self.refused[queue] = self.refused.get(queue, 0) + len(ids)

    def _tags(self, tag: int, *, multiple: bool) -> list[int]:
        if multiple:
            return [known for known in self._unconfirmed if known <= tag]
        return [tag] if tag in self._unconfirmed else []
