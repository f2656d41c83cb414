"""A task as a message: encoded for the broker, and decoded. This module defines our headers.

An attempt has its own message, in Celery's protocol version 2 (docs.celeryq.dev, "Message
Protocol"), or shares a bundle with others (pack.py).
"""

from __future__ import annotations

from types import NoneType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from celery.exceptions import InvalidTaskError, NotRegistered
from pydantic_core import to_json

from backend.broker.queues import on_broker, queue
from backend.db.records import LAST_ATTEMPT, OutboxEntry
from backend.ids import is_task_id
from backend.options import HIGHEST, PRIORITY
from backend.registry import registered
from backend.telemetry.logs import about

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from backend.broker.pack import Outgoing

# A worker drops messages of a version that it does not know; the relay sends them again later.
# A message without this header is of version 1, or of another program.
VERSION: Final = 2
VERSION_HEADER: Final = "ledger_version"
ATTEMPT_HEADER: Final = "ledger_attempt"
MAX_ATTEMPTS_HEADER: Final = "ledger_max_attempts"
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
    for other tasks to be sent when this one has ended. time_limit, max_attempts: those of the
    submission, which replace what the task declares.
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
    time_limit: float | None = None
    max_attempts: int | None = None


def encode(message: Outgoing) -> tuple[str, dict[str, Any]]:
    """Return body (JSON text) and publish options of a message."""
    if message.bundle:
        body, options = _encode_bundle(message)
    else:
        body, options = encode_attempt(*message.entries)
    options["routing_key"] = queue(message.queue).name
    options["priority"] = on_broker(message.priority)
    return body, options


def encode_attempt(entry: OutboxEntry) -> tuple[str, dict[str, Any]]:
    """Return body and publish options of an attempt's own message, without its queue.

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
        "timelimit": [entry.time_limit, None],
        "argsrepr": "()",
        "kwargsrepr": entry.args[:200],
        "ignore_result": False,
        ATTEMPT_HEADER: entry.attempt,
        VERSION_HEADER: VERSION,
    }
    if entry.max_attempts is not None:
        headers[MAX_ATTEMPTS_HEADER] = entry.max_attempts
    options = {
        "headers": headers,
        "correlation_id": entry.task_id,
        "reply_to": entry.reply_to or "",
        **_PUBLISH,
    }
    return f"[[{to_json(entry.args).decode()}], {{}}, {_EMBED}]", options


def _encode_bundle(message: Outgoing) -> tuple[str, dict[str, Any]]:
    rows = [
        {
            "task_id": entry.task_id,
            "attempt": entry.attempt,
            "name": entry.name,
            "args": entry.args,
            "reply_to": entry.reply_to,
        }
        for entry in message.entries
    ]
    options = {
        "headers": {BUNDLE_HEADER: len(rows), VERSION_HEADER: VERSION},
        **_PUBLISH,
    }
    return to_json(rows).decode(), options


def priority_of(message: Any) -> int:  # noqa: ANN401 - kombu's
    """Return the priority of the tasks in a message; the usual one if it has none of ours."""
    # RabbitMQ has it in the properties, kombu's Redis elsewhere.
    given = message.properties.get("priority")
    if given is None:
        given = (message.delivery_info or {}).get("priority")
    return on_broker(given) if type(given) is int and 0 <= given <= HIGHEST else PRIORITY


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
        raise NotRegistered(fields["task"])  # Celery would accept the names of its built-in tasks
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
        time_limit=(fields.get("timelimit") or (None,))[0],
        max_attempts=fields.get(MAX_ATTEMPTS_HEADER),
    )


def _check(fields: Mapping[str, Any]) -> None:
    """Raise InvalidTaskError, which names the first wrong field but not its value."""
    for name, types in _TYPES.items():
        if not isinstance(fields.get(name), types):
            raise InvalidTaskError(f"its {name} has a wrong type")
    if not is_task_id(fields["id"]):
        raise InvalidTaskError("its id is not a UUID in lower case; let Celery make the id")
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
_NUMBER = (int, NoneType)
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
    MAX_ATTEMPTS_HEADER: _NUMBER,
}
