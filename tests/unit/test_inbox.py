"""Waiting for outcomes: no news is missed."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from backend.db.lookups import State

if TYPE_CHECKING:
    from backend.api.inbox import Inbox

pytestmark = pytest.mark.usefixtures("configured")


def test_news_that_come_while_the_ledger_is_asked_are_looked_at_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from backend.api import inbox

    monkeypatch.setattr(inbox.Inbox, "_run", lambda _: None)
    monkeypatch.setattr(inbox, "POLL_SECONDS", 5.0)
    made: list[Inbox] = []
    looks = 0

    async def look(task_id: str) -> State:
        nonlocal looks
        looks += 1
        state = "SUCCESS" if looks > 1 else "PENDING"
        made[0]._wake([task_id])
        return State(task_id, state, None, None, None)

    async def scene() -> None:
        made.append(inbox.Inbox(look))
        state = await made[0].wait("a", 3.0)
        assert state is not None
        assert state.state == "SUCCESS"

    begin = time.monotonic()
    asyncio.run(scene())
    assert time.monotonic() - begin < 1
