"""Waiting for outcomes: no news is missed."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from backend.api import replies
from backend.db.records import TaskRecord
from backend.loop import Loop
from backend.states import PENDING, SUCCESS

if TYPE_CHECKING:
    from collections.abc import Callable

    from backend.api.replies import ReplyListener

pytestmark = pytest.mark.usefixtures("configured")


def test_news_that_come_while_the_ledger_is_asked_are_looked_at_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Loop, "start", lambda _: None)
    monkeypatch.setattr(replies, "POLL_SECONDS", 5.0)
    made: list[ReplyListener] = []
    looks = 0

    async def look(task_id: str) -> TaskRecord:
        nonlocal looks
        looks += 1
        state = SUCCESS if looks > 1 else PENDING
        made[0]._wake([task_id])
        return TaskRecord(task_id, state=state)

    async def scene() -> None:
        made.append(replies.ReplyListener(look))
        state = await made[0].wait("a", 3.0)
        assert state is not None
        assert state.state == "SUCCESS"

    begin = time.monotonic()
    asyncio.run(scene())
    assert time.monotonic() - begin < 1


def waited(
    monkeypatch: pytest.MonkeyPatch, end: Callable[[ReplyListener, list[bool]], None]
) -> float:
    """Wait for a task that does not end until `end` was called; return the seconds it took.

    `end` gets the listener, and a list to add to when the client has left.
    """
    monkeypatch.setattr(Loop, "start", lambda _: None)
    left: list[bool] = []

    async def look(task_id: str) -> TaskRecord:
        return TaskRecord(task_id)

    async def scene() -> None:
        made = replies.ReplyListener(look)
        asyncio.get_running_loop().call_later(0.05, end, made, left)
        state = await made.wait("a", 30.0, lambda: bool(left))
        assert state is not None
        assert state.state == "PENDING"

    begin = time.monotonic()
    asyncio.run(scene())
    return time.monotonic() - begin


def test_a_wait_ends_when_its_client_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    assert waited(monkeypatch, lambda _inbox, left: left.append(True)) < 1


def test_a_wait_ends_at_once_when_the_process_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    assert waited(monkeypatch, lambda listener, _left: listener.stop_waiting()) < 0.2
