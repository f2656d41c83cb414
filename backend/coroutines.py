"""Runs the coroutines of `async def` tasks.

A pool process runs each with `asyncio.run`. A worker of threads runs all of them in one event loop.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from backend.errors import Fenced
from backend.loop import start_event_loop

if TYPE_CHECKING:
    from collections.abc import Coroutine

# The event loop of a worker of threads.
_shared: asyncio.AbstractEventLoop | None = None
# What each thread waits for, by its native id, and the threads in which it is to be cancelled. Used
# in the event loop only.
_running: dict[int, asyncio.Task[Any]] = {}
_cancelled: set[int] = set()


def share_event_loop(threads: int) -> None:
    """Run the coroutines of so many threads in one event loop from now on."""
    global _shared  # noqa: PLW0603 - one for the process
    _shared = start_event_loop("async tasks", "runs async tasks")
    # Python would use few threads, for `asyncio.to_thread` and for the names of hosts.
    _shared.set_default_executor(ThreadPoolExecutor(threads, "async tasks"))


def result_of(coroutine: Coroutine[Any, Any, object]) -> object:
    """Run a coroutine to its end; return its value.

    Raises what it raises, and Fenced if `cancel` has ended it.
    """
    if _shared is None:
        return asyncio.run(coroutine)
    watched = _watched(coroutine, threading.get_native_id())
    value, error = asyncio.run_coroutine_threadsafe(watched, _shared).result()
    if error is not None:
        raise error
    return value


async def _watched(
    coroutine: Coroutine[Any, Any, object], thread: int
) -> tuple[object, BaseException | None]:
    """Return a coroutine's value and its error.

    The error is not raised here: SystemExit would end the event loop.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - for mypy: this is a task
    _running[thread] = task
    try:
        if thread in _cancelled:
            coroutine.close()
            return None, Fenced()
        return await coroutine, None
    except BaseException as error:  # noqa: BLE001 - it is raised in the thread
        fenced = thread in _cancelled and isinstance(error, asyncio.CancelledError)
        return None, Fenced() if fenced else error
    finally:
        del _running[thread]


def cancel(thread: int) -> None:
    """Cancel the coroutine of a thread, by its native id; one that it starts later, too."""
    if _shared is not None:
        _shared.call_soon_threadsafe(_cancel, thread)


def _cancel(thread: int) -> None:
    _cancelled.add(thread)
    if thread in _running:
        _running[thread].cancel()


def forget(thread: int) -> None:
    """Forget that a coroutine was cancelled: the thread has ended, and its id is free."""
    if _shared is not None:
        _shared.call_soon_threadsafe(_cancelled.discard, thread)
