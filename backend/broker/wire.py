"""A task as a message: encoded for the broker, and decoded. Only this module knows our headers.

An attempt has its own message, in Celery's protocol version 2 (docs.celeryq.dev, "Message
Protocol"). First attempts of short tasks share one, a bundle, because a message costs broker, relay
and worker more than a short task does.
"""

from __future__ import annotations

import json
import sys
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from celery.exceptions import InvalidTaskError, NotRegistered
from kombu import Message

from backend.broker.queues import SHORT_QUEUE, TASKS_QUEUE
from backend.db.records import LAST_ATTEMPT, OutboxEntry
from backend.ids import is_task_id
from backend.registry import registered
from backend.telemetry.logs import about

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# A worker drops messages of a version that it does not know; the relay sends them again later.
# A message without this header is of version 1, or of another program.
VERSION: Final = 2
VERSION_HEADER: Final = "ledger_version"
ATTEMPT_HEADER: Final = "ledger_attempt"
BUNDLE_HEADER: Final = "bundle"
# Seconds, about three years: a timer can still count them.
MAX_SECONDS: Final = 10**8

_PUBLISH: Final = {
    "content_type": "application/json",
    "content_encoding": "utf-8",
    "delivery_mode": 2,
}
_EMBED: Final = '{"callbacks": null, "errbacks": null, "chain": null, "chord": null}'


class OtherVersion(Exception):
    """A message has the format of another version of this project."""


class Delivery(NamedTuple):
    """A message taken apart: one attempt of one task.

    args, kwargs: a message of ours has one argument, the JSON text of all arguments. external:
    another program sent it, such as Flower or `celery call`; its attempt is 1. callbacks: it asks
    for other tasks to be sent when this one has ended.
    """

    id: str
    attempt: int
    name: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    reply_to: str | None
    correlation_id: str | None
    queue: str
    external: bool = False
    callbacks: bool = False


def bundled_task_names() -> list[str]:
    """Return the names of the tasks whose first attempts travel in bundles."""
    return [name for name, task in registered().items() if task.one_commit]


def encode(entry: OutboxEntry) -> tuple[str, dict[str, Any]]:
    """Return body (JSON text) and publish options of an attempt's own message.

    Built here, because `send_task` takes four times as long. The only argument is the JSON text of
    all arguments, so the worker validates the same text as the API.
    """
    headers = {
        "lang": "py",
        "task": entry.name,
        "id": entry.task_id,
        "root_id": entry.task_id,
        "parent_id": None,
        "group": None,
        "eta": None,
        "expires": None,
        "retries": entry.attempt - 1,
        "timelimit": [None, None],
        "argsrepr": "()",
        "kwargsrepr": entry.args[:200],
        "ignore_result": False,
        ATTEMPT_HEADER: entry.attempt,
        VERSION_HEADER: VERSION,
    }
    options = {
        "routing_key": TASKS_QUEUE.name,
        "headers": headers,
        "correlation_id": entry.task_id,
        "reply_to": entry.reply_to or "",
        **_PUBLISH,
    }
    return f"[[{json.dumps(entry.args)}], {{}}, {_EMBED}]", options


def encode_bundle(members: Sequence[OutboxEntry]) -> tuple[str, dict[str, Any]]:
    """Return body (JSON text) and publish options of a message that holds many attempts."""
    rows = [
        {
            "task_id": entry.task_id,
            "attempt": entry.attempt,
            "name": entry.name,
            "args": entry.args,
            "reply_to": entry.reply_to,
        }
        for entry in members
    ]
    options = {
        "routing_key": SHORT_QUEUE.name,
        "headers": {BUNDLE_HEADER: len(rows), VERSION_HEADER: VERSION},
        **_PUBLISH,
    }
    return json.dumps(rows), options


def split_bundle(received: Message) -> Sequence[Message]:
    """Return a message for each task of a bundle, or the message itself if it is not a bundle.

    A row that cannot be read becomes a message with `errors`, which is dropped like any unreadable
    message; the tasks of the other rows run. Raises OtherVersion, and ValueError for a body that is
    not a list of rows.
    """
    if BUNDLE_HEADER not in received.headers:
        return [received]
    headers: Mapping[str, Any] = received.headers
    if headers.get(VERSION_HEADER, 1) not in {1, VERSION}:
        raise OtherVersion
    rows = json.loads(received.body or "")
    if not isinstance(rows, list) or not rows:
        raise ValueError("its body is not a list of tasks")
    whole = _Bundle(received, len(rows))
    return [_Part(whole, row) for row in rows]


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

    def __init__(self, whole: _Bundle, row: Any) -> None:  # noqa: ANN401 - any message
        errors = []
        body = self._arguments = ""
        options: dict[str, Any] = {}
        task_id = reply_to = None
        try:
            # Version 1 has lists. To be removed in the release after this one.
            entry = OutboxEntry(*row) if isinstance(row, list) else OutboxEntry(**row)
            body, options = encode(entry)
            task_id, reply_to, self._arguments = entry.task_id, entry.reply_to, entry.args
        except Exception:  # noqa: BLE001 - any message
            errors.append(sys.exc_info())
        super().__init__(
            body,
            content_type=options.get("content_type"),
            content_encoding=options.get("content_encoding"),
            delivery_info=whole.received.delivery_info,
            properties={"correlation_id": task_id, "reply_to": reply_to},
            headers=options.get("headers"),
            accept=whole.received.accept,
            channel=whole.received.channel,
        )
        self.errors = errors
        self._bundle = whole

    def decode(self) -> tuple[list[str], dict[str, object], dict[str, object]]:
        """Return the decoded body, in a fraction of the time that kombu takes."""
        return [self._arguments], {}, {}

    def ack(self, multiple: bool = False) -> None:  # noqa: FBT001, FBT002, ARG002 - kombu's
        """Mark this task as acknowledged; the last one of a bundle acknowledges the bundle."""
        if not self.acknowledged:
            self._state = "ACK"
            self._bundle.part_done()

    def reject(self, requeue: bool = False) -> None:  # noqa: FBT001, FBT002, ARG002 - kombu's
        """Do the same as `ack`: if the task still waits, it is published again."""
        self.ack()


def log_extra(headers: Mapping[str, Any]) -> Mapping[str, object]:
    """Return the `extra` of a log line about a message, whose headers may have any type."""
    return about(str(headers.get("id"))[:100], headers.get(ATTEMPT_HEADER, 1))


def ledger_task_id(headers: Mapping[str, Any]) -> str | None:
    """Return the id of the task that a message is for; None if it is not one of ours."""
    task_id = headers.get("id")
    return str(task_id) if ATTEMPT_HEADER in headers and is_task_id(task_id) else None


def decode(fields: Mapping[str, Any], embedded: object, queue: str) -> Delivery:
    """Return a message as a Delivery.

    fields: the headers, with `args`, `kwargs`, `reply_to` and `correlation_id`, as Celery's request
    has them. embedded: the third part of the body.

    Raises OtherVersion; NotRegistered for a task that this worker does not have; InvalidTaskError,
    which names the first wrong field but not its value. The fields are checked now, because Celery
    reads most of them later, in its event loop, where an error ends the worker.
    """
    if fields.get(VERSION_HEADER, VERSION) != VERSION:
        raise OtherVersion
    _check(fields)
    if not isinstance(embedded, (dict, NoneType)):
        raise InvalidTaskError("the third part of its body is not an object")
    if fields["task"] not in registered():
        raise NotRegistered(fields["task"])  # Celery registers tasks of its own
    attempt = fields.get(ATTEMPT_HEADER)
    return Delivery(
        id=fields["id"],
        attempt=attempt or 1,
        name=fields["task"],
        args=fields["args"],
        kwargs=fields["kwargs"],
        reply_to=fields["reply_to"],
        correlation_id=fields["correlation_id"],
        queue=queue,
        external=attempt is None,
        callbacks=any((embedded or {}).values()),
    )


def _check(fields: Mapping[str, Any]) -> None:
    """Raise InvalidTaskError, which names the first wrong field but not its value."""
    for name, types in _TYPES.items():
        if not isinstance(fields.get(name), types):
            raise InvalidTaskError(f"its {name} has a wrong type")
    if not is_task_id(fields["id"]):
        raise InvalidTaskError("its id is not a UUID in lower case; send it without an id")
    attempt = fields.get(ATTEMPT_HEADER)
    if attempt is not None:
        if not (type(attempt) is int and 0 < attempt <= LAST_ATTEMPT):
            raise InvalidTaskError(f"its attempt is not a whole number from 1 to {LAST_ATTEMPT}")
        if fields["kwargs"] or [type(argument) for argument in fields["args"]] != [str]:
            raise InvalidTaskError("its arguments are not one JSON text")
    limits = fields.get("timelimit")
    hard_and_soft = 2
    if limits and not (len(limits) == hard_and_soft and all(map(_is_limit, limits))):
        raise InvalidTaskError("its timelimit is not a pair of numbers of seconds")
    if not all(isinstance(name, str) for name in fields.get("stamped_headers") or ()):
        raise InvalidTaskError("its stamped_headers are not names")


def _is_limit(limit: object) -> bool:
    return limit is None or (
        isinstance(limit, int | float) and not isinstance(limit, bool) and 0 <= limit <= MAX_SECONDS
    )


_TEXT = (str, NoneType)
_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "id": str,
    "args": (list, tuple),
    "kwargs": dict,
    "reply_to": _TEXT,
    "correlation_id": _TEXT,
    "shadow": _TEXT,
    "timelimit": (list, tuple, NoneType),
    "stamped_headers": (list, NoneType),
    "stamps": (dict, NoneType),
}
