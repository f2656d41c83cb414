"""Messages that no relay has sent: malformed ones, and copies of messages of tasks."""

from __future__ import annotations

import json
import pickle
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

from tests.support.broker_connection import connect

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

QUEUES = ("tasks", "short_tasks")
JSON = "application/json"
# A text by which log lines about the malformed messages are recognised.
MALFORMED = "malformed"
BUNDLE = {"bundle": 1, "ledger_version": 2}
EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


class Raw(NamedTuple):
    """A message as it is sent to the broker."""

    queue: str
    body: bytes
    kind: str
    headers: dict[str, Any]
    reply_to: str = ""


def send(url: str, sent: Iterable[Raw]) -> int:
    """Publish messages; return how many. Raises an error if the broker is unavailable."""
    count = 0
    with connect(url, connect_timeout=5) as connection:
        producer: Any = connection.Producer()  # headers are missing in the stubs
        for raw in sent:
            producer.publish(
                raw.body,
                routing_key=raw.queue,
                exchange="",
                content_type=raw.kind,
                content_encoding="utf-8" if raw.kind == JSON else "binary",
                headers=raw.headers,
                reply_to=raw.reply_to,
                delivery_mode=2,
            )
            count += 1
    return count


def malformed() -> Iterator[Raw]:
    """Yield malformed messages, one of each kind for each queue."""
    task = {"lang": "py", "task": "slow"}
    arguments = json.dumps([[], {"duration": 0}, EMBED]).encode()
    bodies: Sequence[tuple[bytes, str, dict[str, Any]]] = [
        (b"[[], {}, {}]", JSON, {"lang": "py"}),
        (arguments, JSON, task),
        (arguments, JSON, {**task, "id": MALFORMED, "ledger_attempt": 1}),
        (arguments, JSON, {**task, "id": str(uuid4()), "ledger_attempt": MALFORMED}),
        (arguments, JSON, {**task, "id": None, "ledger_attempt": None}),
        (b"{malformed", JSON, {**task, "id": str(uuid4()), "ledger_attempt": 1}),
        (b"[[], {}, {}, {}]", JSON, {**task, "id": str(uuid4()), "ledger_attempt": 1}),
        (b"null", JSON, {}),
        (b"[]", JSON, BUNDLE),
        (b'[["malformed"]]', JSON, BUNDLE),
        (b'[["malformed"]]', JSON, {"bundle": 1}),
        (b"\xff\xfe\x00", JSON, {}),
        (b"<a/>", "text/xml", {}),
        (pickle.dumps([[], {}, {}]), "application/x-python-serialize", dict(task)),
    ]
    for queue in QUEUES:
        for body, kind, headers in bodies:
            yield Raw(queue, body, kind, headers)


def copies(rows: Iterable[tuple[str, str, str, int, str | None]]) -> Iterator[Raw]:
    """Yield a message for each attempt of the tasks; for message tasks, also a bundle.

    A row has a task's id, name, arguments (JSON text), last attempt and reply queue.
    """
    for task_id, name, arguments, last, reply_to in rows:
        for attempt in range(1, last + 1):
            headers = {"lang": "py", "task": name, "id": task_id, "root_id": task_id}
            headers |= {"retries": attempt - 1, "ledger_attempt": attempt, "argsrepr": "()"}  # type: ignore[dict-item]  # numbers too
            body = json.dumps([[arguments], {}, EMBED]).encode()
            yield Raw("tasks", body, JSON, headers, reply_to or "")
        if name == "insert_message":
            row = {"task_id": task_id, "attempt": 1, "name": name}
            row |= {"args": arguments, "reply_to": reply_to}
            yield Raw("short_tasks", json.dumps([row]).encode(), JSON, BUNDLE)
