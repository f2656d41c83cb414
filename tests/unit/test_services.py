"""The services of an API process: what is done once for all, and how they stop."""

from __future__ import annotations

import asyncio
import time

import pytest

from backend.api import services
from backend.batcher import Batcher
from backend.loop import Loop

pytestmark = pytest.mark.usefixtures("configured")


def test_all_parts_stop_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
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
