"""The total of the list: how often the tasks in the ledger are counted."""

from __future__ import annotations

import asyncio
import threading

from backend.api.totals import COUNT_SECONDS, Totals


def test_requests_within_a_second_share_one_count() -> None:
    counts = 0
    counting, go = threading.Event(), threading.Event()

    def count() -> int:
        nonlocal counts
        counts += 1
        counting.set()
        go.wait(5)
        return 20_000 + counts

    async def scene() -> list[int]:
        made = Totals(count)
        assert not made.many
        try:
            first = asyncio.create_task(made.get())
            await asyncio.to_thread(counting.wait, 5)
            others = [asyncio.create_task(made.get()) for _ in range(5)]
            await asyncio.sleep(0)
            go.set()
            got = await asyncio.gather(first, *others)
            got.append(await made.get())
            made._counted_at -= COUNT_SECONDS
            assert made.many
            return [*got, await made.get()]
        finally:
            made.close()

    assert asyncio.run(scene()) == [20_001] * 7 + [20_002]
