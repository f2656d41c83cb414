"""Bundles: how a worker splits them, and when they are acknowledged."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import pytest
from kombu import Message

from backend.broker.bundle import split_bundle, went_back
from backend.broker.pack import Outgoing
from backend.broker.wire import VERSION_HEADER, OtherVersion, encode
from backend.db.records import OutboxEntry

if TYPE_CHECKING:
    from collections.abc import Sequence


class Channel:
    """A channel that records what is acknowledged."""

    no_ack_consumers = None

    def __init__(self) -> None:
        self.acknowledged: list[int] = []
        self.requeued: list[int] = []

    def basic_ack(self, tag: int, *, multiple: bool) -> None:
        assert not multiple
        self.acknowledged.append(tag)

    def basic_reject(self, tag: int, *, requeue: bool) -> None:
        assert requeue
        self.requeued.append(tag)


def due(task_id: str, args: str = '{"content": "Hello"}') -> OutboxEntry:
    return OutboxEntry(task_id, 1, "insert_message", args, "replies")


def received(members: Sequence[OutboxEntry], channel: Channel, body: str | None = None) -> Message:
    text, options = encode(Outgoing("short_tasks", members, bundle=True))
    message: Any = Message  # the stubs want a real channel
    made: Message = message(
        body or text,
        delivery_tag=7,
        content_type=options["content_type"],
        content_encoding=options["content_encoding"],
        headers=options["headers"],
        delivery_info={"routing_key": options["routing_key"]},
        channel=channel,
        accept={"application/json"},
    )
    return made


def test_each_task_of_a_bundle_gets_the_same_message_as_alone() -> None:
    members = [due("a"), due("b", '{"content": "\\u0000 \U0001f600"}')]
    parts = split_bundle(received(members, Channel()))
    for part, member in zip(parts, members, strict=True):
        body, options = encode(Outgoing("tasks", [member], bundle=False))
        assert (part.body, part.headers) == (body, options["headers"])
        assert part.properties["reply_to"] == "replies"
        assert part.payload[:2] == ([member.args], {})
        assert json.loads(part.body or "")[:2] == [[member.args], {}]


def test_a_bundle_is_acknowledged_once_after_its_last_task() -> None:
    channel = Channel()
    first, second, third = split_bundle(received([due("a"), due("b"), due("c")], channel))
    logger = logging.getLogger()
    first.ack_log_error(logger, ())
    first.ack_log_error(logger, ())
    second.reject_log_error(logger, (), requeue=False)
    assert channel.acknowledged == []
    third.ack_log_error(logger, ())
    assert channel.acknowledged == [7]


def test_returning_one_task_returns_its_whole_bundle_once() -> None:
    channel = Channel()
    first, second = split_bundle(received([due("a"), due("b")], channel))
    assert not went_back(second)
    first.reject_log_error(logging.getLogger(), (), requeue=True)
    assert went_back(second)
    second.reject_log_error(logging.getLogger(), (), requeue=True)
    assert channel.requeued == [7]


def test_a_message_that_is_no_bundle_is_unchanged() -> None:
    message: Any = Message
    other: Message = message("{}", headers={"task": "insert_message"})
    assert list(split_bundle(other)) == [other]


@pytest.mark.parametrize("body", ["", "[]", "{", "{}", "7", "null"])
def test_a_bundle_of_the_wrong_shape_is_refused(body: str) -> None:
    with pytest.raises(ValueError, match=r"list of tasks|Expecting"):
        split_bundle(received([due("a")], Channel(), body or " "))


def row_of(**changed: object) -> str:
    row = {"task_id": "a", "attempt": 1, "name": "insert_message", "args": "{}", "reply_to": None}
    return json.dumps({**row, **changed})


@pytest.mark.parametrize(
    "row",
    ["1", '["a"]', '{"task_id": "a"}', row_of(args=3), row_of(attempt="1"), row_of(other=1)],
)
def test_a_bundle_row_of_the_wrong_shape_becomes_a_message_with_errors(row: str) -> None:
    channel = Channel()
    good = row_of()
    first, bad, second = split_bundle(received([due("a")], channel, f"[{good}, {row}, {good}]"))
    assert bad.errors
    assert not first.errors
    assert not second.errors
    for part in (bad, first, second):
        assert channel.acknowledged == []
        part.ack()
    assert channel.acknowledged == [7]


@pytest.mark.parametrize("version", [3, 0, "2"])
def test_a_bundle_of_another_version_is_refused_as_unknown(version: object) -> None:
    message = received([due("a")], Channel())
    headers: dict[str, Any] = message.headers
    headers[VERSION_HEADER] = version
    with pytest.raises(OtherVersion):
        split_bundle(message)
