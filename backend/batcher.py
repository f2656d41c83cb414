"""The micro-batcher: what makes durability cheap.

While one transaction is under way the next requests gather, and one thread takes them all in one
statement and one commit. There is no timer, so an idle service answers at once.
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

# How long a request waits for the store before it is told 503: below the 5 s that clients are
# promised, above what a commit takes on a busy disk.
STORE_TIMEOUT = 4.0
# How many batches may wait. What would wait longer is told 503 at once, and holds no memory.
BATCHES = 10
# So many bytes are handled together, and one item more: the rest need not wait for all of them, and
# `work` holds them in memory several times over.
BATCH_BYTES = 4 * 1024 * 1024
# Large items come a few to a batch, yet this many are served within STORE_TIMEOUT.
LEAST_ROOM = 100


class Batcher(Generic[T, R]):
    """Gathers the items of concurrent requests and has `work` do them together, in one thread.

    `work` takes the items and returns a result for each, in order, and does all of them or none.
    When it fails for a reason other than the store being away, each item is tried again alone, so
    that one item's bad data fails that item only.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Sequence[T]], Sequence[R]],
        limit: int = 500,
        size: Callable[[T], int] | None = None,
    ) -> None:
        """`size` returns an item's bytes: after BATCH_BYTES no more are taken into a batch."""
        self._work = work
        self._limit = limit
        self._size = size
        self._room = max(BATCHES * limit, LEAST_ROOM)
        # Items from this iteration of the event loop, handed over with one notify at its end.
        self._arriving: list[tuple[T, asyncio.Future[R]]] = []
        # When what was handed over together is given up; one timer watches over the first of them.
        self._deadlines: deque[tuple[float, list[asyncio.Future[R]]]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._thread = start_thread(name, "handles requests that come together", self._run)

    async def submit(self, item: T) -> R:
        """Return `work`'s result for the item.

        Raises StoreUnavailable after STORE_TIMEOUT seconds; an item that still waits then is
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
        """Do what waits, then end the thread; returns within STORE_TIMEOUT seconds."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join(STORE_TIMEOUT)

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._wake:
            self._waiting.extend(self._arriving)
            self._wake.notify()
        while self._deadlines and all(future.done() for future in self._deadlines[0][1]):
            self._deadlines.popleft()
        deadline = loop.time() + STORE_TIMEOUT
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
        # They give up in the order in which they came, so what is of no more use stands in front.
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
            # A request that gave up is not done: its client was told so.
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
                    # One by one takes longer, so some may have given up.
                    if not single[1].done():
                        self._do([single])
                return
            if not isinstance(error, TextNotStorable):
                logger.exception("%s failed; the request was told so", self._thread.name)
            results = [error]
        futures = [future for _, future in batch]
        loop = futures[0].get_loop()
        try:
            loop.call_soon_threadsafe(_settle, futures, results)
        except RuntimeError:
            logger.warning("%s ended after its event loop had stopped", self._thread.name)


def _settle(futures: Sequence[asyncio.Future[R]], results: Sequence[R | Exception]) -> None:
    """Give each future its result, in the event loop; one call wakes a whole batch."""
    for future, result in zip(futures, results, strict=True):
        if future.done():
            continue
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)
