"""A bundle taken apart: a message for each task in it, as Celery knows them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from kombu import Message

from backend.celery_app import BUNDLE_HEADER, message
from backend.db.outbox import Due

if TYPE_CHECKING:
    from collections.abc import Sequence


def unpacked(received: Message) -> Sequence[Message]:
    """Return the messages of a bundle's tasks, or the message itself where it is none.

    Raises whatever a body of another shape leads to.
    """
    if BUNDLE_HEADER not in received.headers:
        return [received]
    members = [Due(*row) for row in json.loads(received.body or "")]
    if not members:
        raise ValueError("a bundle of nothing")
    bundle = _Bundle(received, len(members))
    return [_Part(bundle, due) for due in members]


class _Bundle:
    """Acknowledges a bundle with the last of its tasks."""

    def __init__(self, received: Message, count: int) -> None:
        self.received = received
        self._left = count

    def part_done(self) -> None:
        self._left -= 1
        if not self._left:
            self.received.ack()


class _Part(Message):
    """The message of one task in a bundle."""

    def __init__(self, bundle: _Bundle, due: Due) -> None:
        body, options = message(due)
        super().__init__(
            body,
            content_type=options["content_type"],
            content_encoding=options["content_encoding"],
            delivery_info=bundle.received.delivery_info,
            properties={"correlation_id": due.task_id, "reply_to": due.reply_to},
            headers=options["headers"],
            accept=bundle.received.accept,
            channel=bundle.received.channel,
        )
        self._bundle = bundle

    def ack(self, multiple: bool = False) -> None:  # noqa: FBT001, FBT002, ARG002 - kombu's
        """Be done with this task."""
        if not self.acknowledged:
            self._state = "ACK"
            self._bundle.part_done()

    def reject(self, requeue: bool = False) -> None:  # noqa: FBT001, FBT002, ARG002 - kombu's
        """Be done with this task: if it has to run, the outbox still has it."""
        self.ack()
