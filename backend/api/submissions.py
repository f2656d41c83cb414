"""Accepting tasks: many in one commit, once for each Idempotency-Key, and not without limit."""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.batching import Batcher
from backend.db import idempotency, ledger, outbox
from backend.db.session import single, transaction
from backend.errors import Invalid, TooManyWaiting
from backend.settings import settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.db.ledger import Submission

SAMPLE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Order:
    """What one request asks for: tasks, all or none, and the answer once they are on disk."""

    tasks: Sequence[Submission]
    answer: str
    key: str | None = None

    @property
    def fingerprint(self) -> str:
        """Tell what is asked for, whatever ids were given to it."""
        digest = hashlib.sha256()
        for task in self.tasks:
            digest.update(f"{task.name}\0{task.args}\0".encode())
        return digest.hexdigest()


class Submissions:
    """Writes orders: many small ones in one commit, large ones apart so that they hold up none."""

    def __init__(self) -> None:
        self._small = Batcher("submissions", _write)
        self._large = Batcher("bulk submissions", _write, limit=2)
        self._backlog = Backlog()

    async def accept(self, order: Order) -> str:
        """Return the answer when the order is on disk, or the first one given to its key.

        Raises TooManyWaiting, Invalid for a key that came with something else, StoreUnavailable.
        """
        await self._backlog.admit(len(order.tasks))
        batcher = self._small if len(order.tasks) == 1 else self._large
        answer = await batcher.submit(order)
        if answer is None:
            what = "this Idempotency-Key was used before, for another request: use a new one"
            fault = {"detail": what, "pointer": "Idempotency-Key"}
            raise Invalid(f"The request is not valid: {what}.", [fault])
        return answer

    @property
    def parts(self) -> tuple[Batcher[Order, str | None] | Backlog, ...]:
        """What has a thread, to be closed; each takes as long as a Batcher."""
        return self._small, self._large, self._backlog


def _write(orders: Sequence[Order]) -> list[str | None]:
    """Write what is new of the orders in one commit; None where a key asks for another thing."""
    first: dict[str, Order] = {}
    for order in orders:
        if order.key:
            first.setdefault(order.key, order)
    counts: dict[str, idempotency.Key] = {}
    # Without keys one statement is all there is to do.
    with transaction() if first else single() as connection:
        if first:
            keys = [
                idempotency.Key(key, order.fingerprint, order.answer)
                for key, order in first.items()
            ]
            counts = idempotency.remember(connection, keys)
        # Answers hold the ids of their tasks, so no two are the same.
        new = [
            order
            for order in orders
            if order.key is None or counts[order.key].answer == order.answer
        ]
        if new:
            ledger.submit(connection, [task for order in new for task in order.tasks])
    return [_answer(order, counts) for order in orders]


def _answer(order: Order, counts: dict[str, idempotency.Key]) -> str | None:
    if order.key is None:
        return order.answer
    first = counts[order.key]
    return first.answer if first.fingerprint == order.fingerprint else None


class Backlog:
    """How many tasks wait: counted once a second at most, and by what this process adds since."""

    def __init__(self) -> None:
        self._limit = settings().max_waiting
        self._samples = Batcher("backlog", self._sample)
        self._sampled_at = -math.inf
        self._waiting = 0
        self._claimed: int | None = None
        self._rate = 0.0

    async def admit(self, count: int) -> None:
        """Let `count` more tasks wait. Raises TooManyWaiting, saying when to try again."""
        if time.monotonic() - self._sampled_at > SAMPLE_SECONDS:
            await self._samples.submit(None)
        if self._waiting + count > self._limit:
            over = self._waiting + count - self._limit
            seconds = math.ceil(over / self._rate) if self._rate else 30
            raise TooManyWaiting(self._limit, min(max(seconds, 1), 300))
        self._waiting += count

    def close(self) -> None:
        """End the thread."""
        self._samples.close()

    def _sample(self, asked: Sequence[None]) -> list[None]:
        with single() as connection:
            waiting, claimed = outbox.backlog(connection, self._limit)
        now = time.monotonic()
        if self._claimed is not None and claimed > self._claimed:
            self._rate = (claimed - self._claimed) / (now - self._sampled_at)
        self._waiting, self._claimed, self._sampled_at = waiting, claimed, now
        return [None] * len(asked)
