"""The micro-batcher: concurrent requests share a commit, so durability is cheap.

While a transaction runs, new requests gather. Then one thread handles all of them with one
statement and one commit. There is no delay, so an idle service answers at once.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

from backend.errors import Overloaded, StoreUnavailable, TextNotStorable
from backend.loop import start_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

# How long a request waits for the store before it gets 503: more than a commit takes on a busy
# disk.
STORE_TIMEOUT = 4.0
# How many batches may wait. Further requests get 503 at once, and use no memory.
BATCHES = 10
# A batch ends with the item that reaches this size: other requests should not wait for a huge
# batch, and `work` holds several copies of it in memory.
BATCH_BYTES = 4 * 1024 * 1024
# There is room for this many waiting items, also if `limit` is small: in batches of two large
# items, this many are handled within STORE_TIMEOUT.
LEAST_ROOM = 100


class Batcher(Generic[T, R]):
    """Gathers the items of concurrent requests and calls `work` with them, in one thread.

    `work` handles all items or none, and returns a result for each, in order. If it fails although
    the store is available, each item is tried again alone, so that bad data fails only its own
    item.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Sequence[T]], Sequence[R]],
        limit: int = 500,
        size: Callable[[T], int] | None = None,
        timeout: float = STORE_TIMEOUT,
    ) -> None:
        """Start the thread. `size` returns an item's bytes; a batch ends at BATCH_BYTES.

        `timeout`: how many seconds an item may wait.
        """
        self._work = work
        self._limit = limit
        self._size = size
        self._timeout = timeout
        self._room = max(BATCHES * limit, LEAST_ROOM)
        # Items that have just arrived; the event loop hands them over together, with one notify.
        self._arriving: list[tuple[T, asyncio.Future[R]]] = []
        # Deadlines of items that were handed over together; one timer runs for the first deadline.
        self._deadlines: deque[tuple[float, list[asyncio.Future[R]]]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._thread = start_thread(name, "handles concurrent requests together", self._run)

    async def submit(self, item: T) -> R:
        """Return `work`'s result for the item.

        Raises StoreUnavailable after `timeout` seconds; an item that still waits then is
        dropped. Raises Overloaded at once when too many wait already, or after `close`.
        """
        if self._closed or len(self._waiting) + len(self._arriving) >= self._room:
            raise Overloaded
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        if not self._arriving:
            loop.call_soon(self._hand_over, loop)
        self._arriving.append((item, future))
        return await future

    def close(self) -> None:
        """Handle the waiting items, then end the thread; returns within STORE_TIMEOUT seconds."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join(min(self._timeout, STORE_TIMEOUT))

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._wake:
            self._waiting.extend(self._arriving)
            self._wake.notify()
        while self._deadlines and all(future.done() for future in self._deadlines[0][1]):
            self._deadlines.popleft()
        deadline = loop.time() + self._timeout
        self._deadlines.append((deadline, [future for _, future in self._arriving]))
        if self._timer is None:
            self._timer = loop.call_at(deadline, self._give_up, loop)
        self._arriving.clear()

    def _give_up(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        while self._deadlines and self._deadlines[0][0] <= loop.time():
            for future in self._deadlines.popleft()[1]:
                if not future.done():
                    future.set_exception(StoreUnavailable())
        # Items expire in the order of their arrival, so expired ones are in front.
        with self._wake:
            while self._waiting and self._waiting[0][1].done():
                self._waiting.popleft()
        if self._deadlines:
            self._timer = loop.call_at(self._deadlines[0][0], self._give_up, loop)

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._waiting:
                    if self._closed:
                        return
                    self._wake.wait()
                batch = self._next()
            # Expired items are skipped: their clients got 503.
            batch = [(item, future) for item, future in batch if not future.done()]
            if batch:
                self._do(batch)

    def _next(self) -> list[tuple[T, asyncio.Future[R]]]:
        """Take the next batch out of what waits: at least one item."""
        count = min(len(self._waiting), self._limit)
        if self._size is None:
            return [self._waiting.popleft() for _ in range(count)]
        batch: list[tuple[T, asyncio.Future[R]]] = []
        size = 0
        while len(batch) < count and size < BATCH_BYTES:
            batch.append(self._waiting.popleft())
            size += self._size(batch[-1][0])
        return batch

    def _do(self, batch: list[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            results: Sequence[R | Exception] = self._work([item for item, _ in batch])
        except StoreUnavailable as error:
            results = [error] * len(batch)
        except Exception as error:
            if len(batch) > 1:
                for single in batch:
                    # One by one takes longer, so some may have expired.
                    if not single[1].done():
                        self._do([single])
                return
            if not isinstance(error, TextNotStorable):
                logger.exception("%s failed; the request gets an error", self._thread.name)
            results = [error]
        futures = [future for _, future in batch]
        loop = futures[0].get_loop()
        try:
            loop.call_soon_threadsafe(_settle, futures, results)
        except RuntimeError:
            logger.warning("%s finished after its event loop had stopped", self._thread.name)


def _settle(futures: Sequence[asyncio.Future[R]], results: Sequence[R | Exception]) -> None:
    """Give each future its result, in the event loop; one call wakes a whole batch."""
    for future, result in zip(futures, results, strict=True):
        if future.done():
            continue
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)
