"""Runs the coroutines of `async def` tasks.

A pool process runs each with `asyncio.run`. A worker of threads runs all of them in one event loop.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

from backend.errors import Fenced
from backend.loop import start_event_loop

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from concurrent.futures import Future

# The event loop of a worker of threads.
_shared: asyncio.AbstractEventLoop | None = None
# What each thread waits for, by its native id; and what of that was cancelled by `cancel`.
_running: dict[int, Future[Any]] = {}
_cancelled: set[Future[Any]] = set()


def share_event_loop() -> None:
    """Run the coroutines of all threads in one event loop from now on."""
    global _shared  # noqa: PLW0603 - one for the process
    _shared = _shared or start_event_loop("async tasks", "runs async tasks")


def result_of(coroutine: Coroutine[Any, Any, object]) -> object:
    """Run a coroutine to its end; return its value.

    Raises what it raises, and Fenced after `cancel`.
    """
    if _shared is None:
        return asyncio.run(coroutine)
    thread = threading.get_native_id()
    _running[thread] = future = asyncio.run_coroutine_threadsafe(coroutine, _shared)
    try:
        return future.result()
    except CancelledError:
        if future in _cancelled:
            raise Fenced from None
        raise
    finally:
        del _running[thread]
        _cancelled.discard(future)


def cancel(thread: int) -> None:
    """Cancel the coroutine that a thread waits for, by its native id, if there is one."""
    future = _running.get(thread)
    if future is not None:
        _cancelled.add(future)
        future.cancel()
