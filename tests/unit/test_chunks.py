"""Chunks of NDJSON lines: they depend only on the lines, and memory is bounded."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from backend.api.routes import batch_lines

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fastapi import Request

MIB = 1024 * 1024


class Body:
    """A request whose body comes in pieces of one size."""

    def __init__(self, body: bytes, size: int) -> None:
        self._body = body
        self._size = size

    async def stream(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._body), self._size):
            yield self._body[start : start + self._size]


def chunks(body: bytes, size: int) -> list[list[bytes]]:
    async def gather() -> list[list[bytes]]:
        request = cast("Request", Body(body, size))
        return [chunk async for chunk in batch_lines._chunks(request)]

    return asyncio.run(gather())


def test_a_chunk_has_a_thousand_lines() -> None:
    found = chunks(b"{}\n" * 2500, 4096)
    assert [len(chunk) for chunk in found] == [1000, 1000, 500]


def test_a_chunk_has_at_most_four_mib_of_lines_for_pieces_of_any_size() -> None:
    lines = [b"x" * MIB, b"y" * (3 * MIB), b"z" * (MIB - 100), b"", b"1", b"w" * MIB] * 3
    body = b"\n".join(lines)
    found = [chunks(body, size) for size in (1000, 64 * 1024, MIB + 7, len(body))]
    assert all(other == found[0] for other in found)
    assert [line[: MIB + 1] for line in lines] == [line for chunk in found[0] for line in chunk]
    assert len(found[0]) > 1
    assert all(sum(map(len, chunk)) <= 5 * MIB for chunk in found[0])
