"""The services of an API process: what is done once for all, and how they stop."""

from __future__ import annotations

import asyncio
import time
from contextlib import nullcontext
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("configured")


def test_messages_are_counted_once_for_all_who_ask_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from backend.api import services

    counted = 0

    def count(_: object) -> int:
        nonlocal counted
        counted += 1
        return 7

    monkeypatch.setattr(services, "autocommit_connection", nullcontext)
    monkeypatch.setattr(
        "backend.api.services.messages.page", lambda _, limit, before: [limit, before]
    )
    monkeypatch.setattr("backend.api.services.messages.count", count)
    pages: Any = services._message_pages([(1, 10), (2, 20)])
    assert pages == [([1, 10], 7), ([2, 20], 7)]
    assert counted == 1


def test_all_parts_stop_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from backend.api import services
    from backend.batcher import Batcher
    from backend.loop import Loop

    def hang(_: object) -> None:
        time.sleep(0.4)

    monkeypatch.setattr(Loop, "start", lambda _: None)
    monkeypatch.setattr(Batcher, "close", hang)

    async def scene() -> float:
        made = services.Services()
        begin = time.monotonic()
        await made.close()
        return time.monotonic() - begin

    assert asyncio.run(scene()) < 0.75
