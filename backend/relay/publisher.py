"""Publishing in batches, with the broker's word for each message."""

from __future__ import annotations

import socket
import time
from collections import defaultdict
from itertools import chain
from typing import TYPE_CHECKING, Any

from kombu import Producer

from backend.celery_app import BROKER_ERRORS, QUEUES, bundle, connect, message
from backend.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from backend.db.outbox import Due

# How long the broker may take to confirm a batch before it counts as not published.
CONFIRM_SECONDS = 10.0


# What ends a loop of the relay until the store or the broker is back.
OUTAGES: tuple[type[Exception], ...] = (StoreUnavailable, *BROKER_ERRORS)


class Publisher:
    """A connection to the broker that publishes and counts confirms.

    Any error means that the connection is of no more use: close it and make another.
    """

    def __init__(self) -> None:
        self._connection = connect()
        channel: Any = self._connection.channel()  # py-amqp's has more than the stubs say
        self._channel = channel
        for queue in QUEUES:
            queue(channel).declare()
        self._confirms = self._connection.transport.driver_type == "amqp"
        self._unconfirmed: dict[int, list[str]] = {}
        self._refused: set[str] = set()
        self._tag = 0
        if self._confirms:
            channel.confirm_select()
            channel.events["basic_ack"].add(self._on_ack)
            channel.events["basic_nack"].add(self._on_nack)
        self._producer: Any = Producer(self._channel, auto_declare=False)  # the stubs lack batch()

    def publish(self, batch: Sequence[Due]) -> None:
        """Publish a batch; return when the broker has it all on disk.

        Raises one of BROKER_ERRORS; `unpublished` then tells what it may not have.
        """
        self._refused.clear()
        messages = list(_messages(batch))
        # Noted before the first byte goes out: whatever breaks, nothing counts as published.
        self._unconfirmed = {
            self._tag + place: ids for place, (ids, _, _) in enumerate(messages, start=1)
        }
        # On Redis the batch goes out, and is answered, as a whole; elsewhere this does nothing.
        with self._producer.batch(max_size=len(messages)):
            for _, body, options in messages:
                self._producer.publish(body, **options)
                self._tag += 1
        if not self._confirms:
            self._unconfirmed.clear()
        deadline = time.monotonic() + CONFIRM_SECONDS
        while self._unconfirmed:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("the broker did not confirm in time")
            try:
                self._connection.drain_events(timeout=left)
            except socket.timeout as error:  # noqa: UP041 - what kombu documents
                raise TimeoutError("the broker did not confirm in time") from error

    def unpublished(self) -> list[str]:
        """Return the ids of the last batch that the broker may not have."""
        return [*chain.from_iterable(self._unconfirmed.values()), *self._refused]

    def waiting(self) -> int:
        """Return how many messages wait in the queues, which are made where they are missing."""
        bound: list[Any] = [queue(self._channel) for queue in QUEUES]  # wrong in the stubs
        for queue in bound:
            queue.declare()
        return sum(int(queue.queue_declare().message_count) for queue in bound)

    def close(self) -> None:
        """Drop the connection without waiting for anybody."""
        self._connection.collect()

    def _on_ack(self, tag: int, multiple: bool) -> None:  # noqa: FBT001 - py-amqp's callback
        for confirmed in self._tags(tag, multiple=multiple):
            del self._unconfirmed[confirmed]

    def _on_nack(self, tag: int, multiple: bool) -> None:  # noqa: FBT001 - py-amqp's callback
        for refused in self._tags(tag, multiple=multiple):
            self._refused.update(self._unconfirmed.pop(refused))

    def _tags(self, tag: int, *, multiple: bool) -> list[int]:
        if multiple:
            return [known for known in self._unconfirmed if known <= tag]
        return [tag] if tag in self._unconfirmed else []


def _messages(batch: Sequence[Due]) -> Iterator[tuple[list[str], str, dict[str, Any]]]:
    """Give each message's tasks, its body and its options."""
    bundles: defaultdict[int, list[Due]] = defaultdict(list)
    for due in batch:
        if due.bundle is None:
            yield [due.task_id], *message(due)
        else:
            bundles[due.bundle].append(due)
    for members in bundles.values():
        yield [due.task_id for due in members], *bundle(members)
