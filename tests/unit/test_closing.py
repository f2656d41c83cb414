"""The API's threads that read from the broker: a connection that closes slowly delays no stop."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from backend.api.inspector import Inspector
from backend.api.replies import ReplyListener

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("configured")


async def no_state(_task_id: str) -> None:
    """Know no task."""


@pytest.mark.parametrize(
    "make",
    [lambda connect: ReplyListener(no_state, connect), Inspector],
    ids=["replies", "inspector"],
)
def test_close_does_not_wait_for_a_broker_that_does_not_answer(
    make: Callable[[Callable[..., Any]], ReplyListener | Inspector],
) -> None:
    connecting, release = threading.Event(), threading.Event()

    def connect(**_: object) -> None:
        connecting.set()
        release.wait(10)
        raise ConnectionRefusedError

    async def scene() -> float:
        reader = make(connect)
        assert connecting.wait(5)
        begin = time.monotonic()
        reader.close()
        return time.monotonic() - begin

    try:
        assert asyncio.run(scene()) < 1
    finally:
        release.set()
