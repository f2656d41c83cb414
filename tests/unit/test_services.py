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
    from backend.api import deps

    counted = 0

    def count(_: object) -> int:
        nonlocal counted
        counted += 1
        return 7

    monkeypatch.setattr(deps, "single", nullcontext)
    monkeypatch.setattr("backend.api.deps.messages.page", lambda _, limit, before: [limit, before])
    monkeypatch.setattr("backend.api.deps.messages.count", count)
    pages: Any = deps._message_pages([(1, 10), (2, 20)])
    assert pages == [([1, 10], 7), ([2, 20], 7)]
    assert counted == 1


def test_all_parts_stop_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from backend.api import deps, inbox, inspector
    from backend.batching import Batcher

    def hang(_: object) -> None:
        time.sleep(0.4)

    for kind in (inbox.Inbox, inspector.Inspector):
        monkeypatch.setattr(kind, "_run", lambda _: None)
    monkeypatch.setattr(Batcher, "close", hang)

    async def scene() -> float:
        services = deps.Services()
        begin = time.monotonic()
        await services.close()
        return time.monotonic() - begin

    assert asyncio.run(scene()) < 0.75
