"""Which attempts share a message."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

import tests.support.series_tasks  # noqa: F401 - registers its tasks
from backend.broker.pack import pack
from backend.db.records import OutboxEntry
from backend.registry import registered

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _with_the_tests_tasks() -> Iterator[None]:
    registered.cache_clear()
    yield
    registered.cache_clear()


def entry(name: str, attempt: int = 1, publishes: int = 0) -> OutboxEntry:
    return OutboxEntry(str(uuid4()), attempt, name, "{}", None, publishes)


def test_first_attempts_of_one_queue_share_a_message() -> None:
    slow, short, step = entry("slow"), entry("insert_message"), entry("step")
    messages = pack([slow, short, step], frozenset())
    assert [(message.queue, message.bundle, message.entries) for message in messages] == [
        ("tasks", True, [slow, step]),
        ("short_tasks", True, [short]),
    ]


@pytest.mark.parametrize(
    "alone",
    [
        entry("slow", attempt=2),
        entry("slow", publishes=1),
        entry("insert_message", attempt=2),
        entry("step_once"),
        entry("unknown"),
        entry("long"),
    ],
    ids=["a later attempt", "published again", "short", "one attempt", "unknown", "long"],
)
def test_these_attempts_have_their_own_message(alone: OutboxEntry) -> None:
    if alone.name == "long":
        alone = entry("slow")
        long_tasks = frozenset({"slow"})
    else:
        long_tasks = frozenset()
    messages = pack([alone, alone], long_tasks)
    queue = "short_tasks" if alone.name == "insert_message" else "tasks"
    assert [(message.queue, message.bundle, message.entries) for message in messages] == [
        (queue, False, [alone])
    ] * 2


def test_no_ordinary_attempts_share_a_message_while_an_old_worker_lives() -> None:
    messages = pack([entry("slow"), entry("slow"), entry("insert_message")], None)
    assert [message.bundle for message in messages] == [False, False, True]
