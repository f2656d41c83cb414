"""The batcher: which items form a batch, are retried individually, or are dropped."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING

import pytest

from backend.batcher import BATCH_BYTES, STORE_TIMEOUT, Batcher
from backend.errors import Overloaded, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence


class Work:
    """Work that records each batch, and can be blocked."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.under_way = threading.Event()
        self.go = threading.Event()
        self.go.set()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.under_way.set()
        assert self.go.wait(10)
        return [item * 10 for item in items]


def run(
    work: Callable[[Sequence[int]], Sequence[int]],
    scene: Callable[[Batcher[int, int]], Coroutine[None, None, None]],
    limit: int = 500,
    size: Callable[[int], int] | None = None,
    timeout: float = STORE_TIMEOUT,
) -> None:
    batcher = Batcher("test", work, limit, size, timeout)

    async def main() -> None:
        async with asyncio.timeout(10):
            await scene(batcher)

    try:
        asyncio.run(main())
    finally:
        batcher.close()


async def hold(batcher: Batcher[int, int], work: Work) -> asyncio.Task[int]:
    """Submit item 0, which is processed until `work.go` is set."""
    work.go.clear()
    first = asyncio.create_task(batcher.submit(0))
    await asyncio.to_thread(work.under_way.wait, 10)
    return first


def test_items_submitted_during_a_batch_form_the_next_batch_in_order() -> None:
    work = Work()

    async def scene(batcher: Batcher[int, int]) -> None:
        first = await hold(batcher, work)
        rest = [asyncio.create_task(batcher.submit(item)) for item in range(1, 6)]
        await asyncio.sleep(0)
        work.go.set()
        assert await asyncio.gather(first, *rest) == [0, 10, 20, 30, 40, 50]

    run(work, scene)
    assert work.batches == [[0], [1, 2, 3, 4, 5]]


def test_a_batch_has_a_maximum_number_of_items() -> None:
    work = Work()

    async def scene(batcher: Batcher[int, int]) -> None:
        first = await hold(batcher, work)
        rest = [asyncio.create_task(batcher.submit(item)) for item in range(1, 6)]
        await asyncio.sleep(0)
        work.go.set()
        await asyncio.gather(first, *rest)

    run(work, scene, limit=2)
    assert work.batches == [[0], [1, 2], [3, 4], [5]]


def test_a_batch_has_a_byte_limit_but_always_takes_one_item() -> None:
    work = Work()
    third = BATCH_BYTES // 3 + 1

    async def scene(batcher: Batcher[int, int]) -> None:
        first = await hold(batcher, work)
        sizes = (third, third, third, 1, 5 * third, 1)
        rest = [asyncio.create_task(batcher.submit(item)) for item in sizes]
        await asyncio.sleep(0)
        work.go.set()
        await asyncio.gather(first, *rest)

    run(work, scene, size=lambda item: item)
    assert work.batches == [[0], [third, third, third], [1, 5 * third], [1]]


def test_an_idle_batcher_handles_an_item_at_once() -> None:
    work = Work()

    async def scene(batcher: Batcher[int, int]) -> None:
        begin = time.monotonic()
        for item in range(20):
            assert await batcher.submit(item) == item * 10
        assert time.monotonic() - begin < 1

    run(work, scene)
    assert work.batches == [[item] for item in range(20)]


def test_items_of_a_failed_batch_are_retried_individually_and_only_the_bad_one_fails() -> None:
    work = Work()

    def pick(items: Sequence[int]) -> Sequence[int]:
        done = work(items)
        if 2 in items:
            raise ValueError("not this one")
        return done

    async def scene(batcher: Batcher[int, int]) -> None:
        first = await hold(batcher, work)
        rest = [asyncio.create_task(batcher.submit(item)) for item in (1, 2, 3)]
        await asyncio.sleep(0)
        work.go.set()
        one, two, three = await asyncio.gather(*rest, return_exceptions=True)
        assert (one, three) == (10, 30)
        assert isinstance(two, ValueError)
        assert await first == 0

    run(pick, scene)
    assert work.batches == [[0], [1, 2, 3], [1], [2], [3]]


def test_an_unavailable_store_fails_the_whole_batch_without_a_retry() -> None:
    work = Work()

    def away(items: Sequence[int]) -> Sequence[int]:
        work(items)
        raise StoreUnavailable

    async def scene(batcher: Batcher[int, int]) -> None:
        first = await hold(batcher, work)
        rest = [asyncio.create_task(batcher.submit(item)) for item in (1, 2, 3)]
        await asyncio.sleep(0)
        work.go.set()
        results = await asyncio.gather(first, *rest, return_exceptions=True)
        assert [StoreUnavailable] * 4 == [type(result) for result in results]

    run(away, scene)
    assert work.batches == [[0], [1, 2, 3]]


def test_the_batcher_continues_after_an_error() -> None:
    def fail_once(items: Sequence[int]) -> Sequence[int]:
        if list(items) == [0]:
            raise RuntimeError("once")
        return items

    async def scene(batcher: Batcher[int, int]) -> None:
        with pytest.raises(RuntimeError, match="once"):
            await batcher.submit(0)
        assert await batcher.submit(1) == 1

    run(fail_once, scene)


def test_a_cancelled_request_is_not_handled() -> None:
    work = Work()

    async def scene(batcher: Batcher[int, int]) -> None:
        first = await hold(batcher, work)
        gone = asyncio.create_task(batcher.submit(1))
        stays = asyncio.create_task(batcher.submit(2))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        work.go.set()
        assert list(await asyncio.gather(first, stays)) == [0, 20]

    run(work, scene)
    assert work.batches == [[0], [2]]


def test_a_request_that_timed_out_gets_an_error_and_is_not_handled() -> None:
    work = Work()

    async def scene(batcher: Batcher[int, int]) -> None:
        first = await hold(batcher, work)
        with pytest.raises(StoreUnavailable):
            await batcher.submit(1)
        with pytest.raises(StoreUnavailable):
            await first
        work.go.set()
        batcher._timeout = STORE_TIMEOUT
        assert await batcher.submit(2) == 20

    run(work, scene, timeout=0.05)
    assert work.batches == [[0], [2]], "the running batch finishes, the waiting item is dropped"


def test_a_full_batcher_refuses_at_once_and_timed_out_requests_free_their_place() -> None:
    work = Work()

    async def scene(batcher: Batcher[int, int]) -> None:
        batcher._room = 20
        first = await hold(batcher, work)
        for _ in range(2):
            rest = [asyncio.create_task(batcher.submit(item)) for item in range(1, 21)]
            await asyncio.sleep(0)
            begin = time.monotonic()
            with pytest.raises(Overloaded):
                await batcher.submit(99)
            assert time.monotonic() - begin < 0.1
            assert all(not task.done() for task in rest), "items within the limit wait"
            told = await asyncio.gather(*rest, return_exceptions=True)
            assert [StoreUnavailable] * 20 == [type(error) for error in told]
        with pytest.raises(StoreUnavailable):
            await first
        work.go.set()

    run(work, scene, limit=2, timeout=0.3)
    assert work.batches == [[0]]


def test_a_request_that_timed_out_during_individual_retries_is_not_handled() -> None:
    work = Work()
    gave_up = threading.Event()

    def pick(items: Sequence[int]) -> Sequence[int]:
        done = work(items)
        if len(items) > 1:
            raise ValueError("not together")
        if list(items) == [1]:
            assert gave_up.wait(10)
        return done

    async def scene(batcher: Batcher[int, int]) -> None:
        first = await hold(batcher, work)
        rest = [asyncio.create_task(batcher.submit(item)) for item in (1, 2)]
        await asyncio.sleep(0)
        work.go.set()
        told = await asyncio.gather(*rest, return_exceptions=True)
        assert [StoreUnavailable] * 2 == [type(error) for error in told]
        assert await first == 0
        gave_up.set()

    run(pick, scene, timeout=0.3)
    assert work.batches == [[0], [1, 2], [1]]


def test_a_closed_batcher_handles_waiting_items_and_refuses_new_ones() -> None:
    work = Work()

    async def scene(batcher: Batcher[int, int]) -> None:
        first = await hold(batcher, work)
        second = asyncio.create_task(batcher.submit(1))
        await asyncio.sleep(0)
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        work.go.set()
        await closing
        assert list(await asyncio.gather(first, second)) == [0, 10]
        with pytest.raises(Overloaded):
            await batcher.submit(2)

    run(work, scene)
    assert work.batches == [[0], [1]]


def test_closing_a_batcher_ends_its_thread() -> None:
    before = threading.active_count()
    batcher = Batcher("short", Work())
    assert threading.active_count() == before + 1
    batcher.close()
    assert threading.active_count() == before
