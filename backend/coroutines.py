"""Runs the coroutines of `async def` tasks.

A process that runs one task at a time makes an event loop for each. In a worker of threads, one
event loop has the coroutines of all threads.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

from backend.loop import start_event_loop

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from concurrent.futures import Future

# The event loop of a worker of threads.
_shared: asyncio.AbstractEventLoop | None = None
# What each thread waits for, by its native id.
_running: dict[int, Future[Any]] = {}


def share_event_loop() -> None:
    """Run the coroutines of all threads in one event loop from now on."""
    global _shared  # noqa: PLW0603 - one for the process
    _shared = _shared or start_event_loop("async tasks", "runs async tasks")


def result_of(coroutine: Coroutine[Any, Any, object]) -> object:
    """Run a coroutine to its end; return its value.

    Raises what it raises, and CancelledError if it was cancelled.
    """
    if _shared is None:
        return asyncio.run(coroutine)
    thread = threading.get_native_id()
    _running[thread] = future = asyncio.run_coroutine_threadsafe(coroutine, _shared)
    try:
        return future.result()
    finally:
        del _running[thread]


def waited_for(thread: int) -> Future[Any] | None:
    """Return what a thread waits for, by its native id, if it waits for a coroutine."""
    return _running.get(thread)
