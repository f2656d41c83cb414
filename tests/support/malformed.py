"""Messages that cannot be read, one of every known kind."""

from __future__ import annotations

import base64
import json
import pickle
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import kombu

GONE = object()


ARGUMENTS = ['{"content": "x"}']
BUNDLE = {"bundle": 1, "ledger_version": 2}


def body_of(args: object = ARGUMENTS, kwargs: object = None, *rest: object) -> bytes:
    embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    kwargs = {} if kwargs is None else kwargs
    return json.dumps([args, kwargs, *(rest or [embed])]).encode()


def headers_of(**changes: object) -> dict[str, Any]:
    task_id = str(uuid4())
    usual: dict[str, object] = {
        "lang": "py",
        "task": "insert_message",
        "id": task_id,
        "ledger_attempt": 1,
    }
    return {name: value for name, value in (usual | changes).items() if value is not GONE}


@dataclass(frozen=True)
class Sent:
    """A message as a client publishes it; the defaults are those of a valid message."""

    body: bytes = field(default_factory=body_of)
    headers: dict[str, Any] = field(default_factory=headers_of)
    kind: str | None = "application/json"
    encoding: str | None = "utf-8"
    properties: dict[str, Any] = field(default_factory=dict)

    def publish(self, url: str, queue: str) -> None:
        with kombu.Connection(url) as connection:
            connection.Producer().publish(
                self.body,
                exchange="tasks",
                routing_key=queue,
                content_type=self.kind,
                content_encoding=self.encoding,
                headers=self.headers,
                **self.properties,
            )


class FarFuture(datetime):
    """A date that a broker can carry but Python cannot represent."""

    def utctimetuple(self) -> Any:  # noqa: ANN401 - for amqp, which wants a tuple
        return (9999, 1, 1, 10**10, 0, 0)


def nested(depth: int) -> list[Any]:
    made: list[Any] = []
    for _ in range(depth):
        made = [made]
    return made


# The body would be valid.
PICKLE = pickle.dumps([ARGUMENTS, {}, {}])
PICKLED = "application/x-python-serialize"
MALFORMED = {
    # Missing headers.
    "no header but the language, empty parts": Sent(b"[[], {}, {}]", {"lang": "py"}),
    "no id": Sent(body_of([], {"duration": 0}), {"lang": "py", "task": "slow"}),
    # The body.
    "pickle": Sent(PICKLE, kind=PICKLED),
    "pickle without headers": Sent(PICKLE, {}, PICKLED),
    "no JSON": Sent(b"{nonsense"),
    "no JSON, no headers": Sent(b"{nonsense", {}),
    "JSON, no headers": Sent(b'{"content": "x"}', {}),
    "no text": Sent(b"\xff\xfe\x00"),
    "no body": Sent(b""),
    "no body, no headers": Sent(b"", {}),
    "unknown type": Sent(b"<a/>", kind="text/xml"),
    "an object": Sent(b'{"content": "x"}'),
    "an empty list": Sent(b"[]"),
    "null": Sent(b"null"),
    "a number": Sent(b"7"),
    "four parts": Sent(b"[[], {}, {}, {}]"),
    "arguments that are a text": Sent(body_of("text")),
    "arguments that are null": Sent(body_of(None)),
    "no arguments": Sent(body_of([])),
    "arguments in many parts": Sent(body_of(["{}", "{}"])),
    "arguments that are no JSON text": Sent(body_of([{"content": "x"}])),
    "arguments by name too": Sent(body_of(ARGUMENTS, {"content": "x"})),
    "keyword arguments that are a list": Sent(body_of(ARGUMENTS, [])),
    "keyword arguments that are a number": Sent(body_of(ARGUMENTS, 7)),
    "a third part that is a text": Sent(body_of(ARGUMENTS, None, "text")),
    "arguments nested beyond reading": Sent(b"[[" + b"[" * 10_000 + b"]" * 10_000 + b"], {}, {}]"),
    # The headers.
    "no task": Sent(headers=headers_of(task=GONE)),
    "a task that is null": Sent(headers=headers_of(task=None)),
    "a task that is a list": Sent(headers=headers_of(task=["insert_message"])),
    "an unknown task": Sent(headers=headers_of(task="nobody_knows")),
    "an invalid id": Sent(headers=headers_of(id="abc-123", ledger_attempt=GONE)),
    "an id that is null": Sent(headers=headers_of(id=None)),
    "an id that is a number": Sent(headers=headers_of(id=7)),
    "an id that is a list": Sent(headers=headers_of(id=[str(uuid4())])),
    "an id in upper case": Sent(headers=headers_of(id=str(uuid4()).upper())),
    "an attempt that is a text": Sent(headers=headers_of(ledger_attempt="first")),
    "an attempt of zero": Sent(headers=headers_of(ledger_attempt=0)),
    "a negative attempt": Sent(headers=headers_of(ledger_attempt=-1)),
    "a huge attempt": Sent(headers=headers_of(ledger_attempt=2**62)),
    "an attempt that is true": Sent(headers=headers_of(ledger_attempt=True)),
    "an attempt that is a fraction": Sent(headers=headers_of(ledger_attempt=1.5)),
    "an attempt that is a list": Sent(headers=headers_of(ledger_attempt=[1])),
    "an invalid eta": Sent(headers=headers_of(eta="soon")),
    "an eta that is a number": Sent(headers=headers_of(eta=7)),
    "an invalid expiry": Sent(headers=headers_of(expires="never")),
    "time limits that are a text": Sent(headers=headers_of(timelimit="long")),
    "time limits of texts": Sent(headers=headers_of(timelimit=["long", "longer"])),
    "one time limit": Sent(headers=headers_of(timelimit=[1])),
    "negative time limits": Sent(headers=headers_of(timelimit=[-1, -1])),
    "a shadow that is a list": Sent(headers=headers_of(shadow=["a"])),
    "stamps that are a number": Sent(headers=headers_of(stamped_headers=7)),
    "an unknown compression": Sent(headers=headers_of(compression="nonsense")),
    "an unsupported compression": Sent(headers=headers_of(compression="application/x-gzip")),
    # Bundles.
    "a bundle that is no list": Sent(b"{}", BUNDLE),
    "a bundle of nothing": Sent(b"[]", {**BUNDLE, "bundle": 0}),
    "a bundle that is no JSON": Sent(b"[nonsense", BUNDLE),
    "a bundle of numbers": Sent(b"[7]", BUNDLE),
    "a bundle of lists": Sent(b'[["a"]]', BUNDLE),
    "a bundle of incomplete rows": Sent(b'[{"task_id": "a"}]', BUNDLE),
    "a bundle of another version": Sent(b'[["a"]]', {"bundle": 1}),
    "an attempt of another version": Sent(headers=headers_of(ledger_attempt=1, ledger_version=7)),
    "a bundle that is a number": Sent(b"7", headers_of(bundle="nonsense")),
}  # fmt: skip
UNREADABLE_PROPERTIES = {
    "a date beyond Python's": Sent(headers=headers_of(at=FarFuture.now(UTC))),
    "headers nested beyond reading": Sent(headers=headers_of(deep=nested(3000))),
}


def envelope(**changes: object) -> bytes:
    """Return a list entry in Redis as kombu writes it for a valid message, with `changes`."""
    properties = {
        "delivery_info": {"exchange": "tasks", "routing_key": "tasks"},
        "delivery_tag": str(uuid4()),
        "body_encoding": "base64",
        "priority": 0,
        "reply_to": "",
        "correlation_id": str(uuid4()),
    }
    parts: dict[str, object] = {
        "body": base64.b64encode(body_of()).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": headers_of(),
        "properties": properties,
    }
    for name, value in changes.items():
        (properties if name in properties else parts)[name.replace("__", "-")] = value
    parts["properties"] = changes.get(
        "properties", {k: v for k, v in properties.items() if v is not GONE}
    )
    return json.dumps({name: value for name, value in parts.items() if value is not GONE}).encode()


ENTRIES = {
    "no JSON": b"nonsense",
    "no text": b"\xff\xfe",
    "empty": b"",
    "a list": b"[]",
    "a number": b"7",
    "null": b"null",
    "an empty object": b"{}",
    "no properties": envelope(properties=GONE),
    "properties that are null": envelope(properties=None),
    "no properties in it": envelope(properties={}),
    "no delivery tag": envelope(delivery_tag=GONE),
    "a delivery tag that is null": envelope(delivery_tag=None),
    "a delivery tag that is a list": envelope(delivery_tag=["a"]),
    "no delivery info": envelope(delivery_info=GONE),
    "a delivery info that is a text": envelope(delivery_info="tasks"),
    "an empty delivery info": envelope(delivery_info={}),
    "headers that are null": envelope(headers=None),
    "headers that are a list": envelope(headers=["task"]),
    "headers that are a text": envelope(headers="task"),
    "no headers": envelope(headers=GONE),
    "no body": envelope(body=GONE),
    "a body that is null": envelope(body=None),
    "a body that is an object": envelope(body={}),
    "a body that is no base64": envelope(body="a"),
    "a body in an unknown code": envelope(body_encoding="nonsense"),
    "a type that is an object": envelope(content__type={}),
    "a reply queue that is an object": envelope(reply_to={}),
    "a reply queue that is a list": envelope(reply_to=["a"]),
    "a correlation id that is a list": envelope(correlation_id=["a"]),
}  # fmt: skip
