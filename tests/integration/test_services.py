"""The services of an API process: how they stop."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest

from backend.api import services

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("service")


def test_the_parts_of_an_api_process_stop_concurrently() -> None:
    """Each part ends only when all of them are stopping."""

    async def scene() -> None:
        made = services.Services()
        together = threading.Barrier(len(made.parts))

        def wait_for_the_others(close: Callable[[], object]) -> None:
            together.wait(10)
            close()

        for part in made.parts:
            part.close = partial(wait_for_the_others, part.close)  # type: ignore[method-assign]  # of this one
        await made.close()

    asyncio.run(scene())
