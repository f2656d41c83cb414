"""Waiting for outcomes: no reply is missed."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from backend.api.replies import ReplyListener
from backend.db.records import TaskRecord
from backend.states import FAILURE, PENDING, SUCCESS

if TYPE_CHECKING:
    from collections.abc import Callable

    from kombu import Connection

pytestmark = pytest.mark.usefixtures("configured")


def no_broker(**_: object) -> Connection:
    raise ConnectionRefusedError


def test_a_reply_during_a_ledger_query_causes_another_query_at_once() -> None:
    made: list[ReplyListener] = []
    looks = 0

    async def look(task_id: str) -> TaskRecord:
        nonlocal looks
        looks += 1
        state = SUCCESS if looks > 1 else PENDING
        made[0]._wake({task_id: None})
        return TaskRecord(task_id, state=state)

    async def scene() -> None:
        made.append(ReplyListener(look, no_broker, poll_seconds=5.0))
        state = await made[0].wait("a", 3.0)
        made[0].close()
        assert state is not None
        assert state.state == "SUCCESS"

    begin = time.monotonic()
    asyncio.run(scene())
    assert time.monotonic() - begin < 1


def test_a_reply_with_an_outcome_needs_no_other_query() -> None:
    made: list[ReplyListener] = []
    end = TaskRecord("a", state=FAILURE, error="too small")
    looks = []

    async def look(task_id: str) -> TaskRecord:
        looks.append(task_id)
        asyncio.get_running_loop().call_soon(made[0]._wake, {"a": end})
        return TaskRecord(task_id)

    async def scene() -> TaskRecord | None:
        made.append(ReplyListener(look, no_broker, poll_seconds=5.0))
        state = await made[0].wait("a", 3.0)
        made[0].close()
        return state

    assert asyncio.run(scene()) == end
    assert looks == ["a"]


def waited(end: Callable[[ReplyListener, list[bool]], None]) -> float:
    """Wait for a task that does not end until `end` was called; return the seconds it took.

    `end` gets the listener, and a list to add to when the client has left.
    """
    left: list[bool] = []

    async def look(task_id: str) -> TaskRecord:
        return TaskRecord(task_id)

    async def scene() -> None:
        made = ReplyListener(look, no_broker)
        asyncio.get_running_loop().call_later(0.05, end, made, left)
        state = await made.wait("a", 30.0, lambda: bool(left))
        made.close()
        assert state is not None
        assert state.state == "PENDING"

    begin = time.monotonic()
    asyncio.run(scene())
    return time.monotonic() - begin


def test_a_wait_ends_when_its_client_disconnects() -> None:
    assert waited(lambda _inbox, left: left.append(True)) < 1


def test_a_wait_ends_at_once_when_the_process_stops() -> None:
    assert waited(lambda listener, _left: listener.stop_waiting()) < 0.2
