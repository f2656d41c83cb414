"""Accepting tasks: many in one commit, once for each Idempotency-Key, and not without limit."""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from backend.batching import Batcher
from backend.db import idempotency, ledger, outbox
from backend.db.session import single, transaction
from backend.errors import Invalid, StoreNotWritable, TooManyWaiting
from backend.settings import settings
from backend.tasks.registry import registered

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.db.ledger import NewTask

SAMPLE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Order:
    """What one request asks for: tasks, all or none, and the answer once they are on disk.

    `form`: of the answer, which a repeated request can only get in the form that it had at first.
    """

    tasks: Sequence[NewTask]
    answer: str
    form: Literal["task", "batch", "lines"]
    key: str | None = None

    @property
    def fingerprint(self) -> str:
        """Return a digest of what is asked for and in which form, without the new ids.

        Of the arguments as they were understood: a client may write them in another order.
        """
        digest = hashlib.sha256(f"{self.form}\0".encode())
        for task in self.tasks:
            model = registered()[task.name].arguments
            try:
                understood = model.model_validate_json(task.args).model_dump_json()
            except ValueError:  # such as a field that Pydantic cannot write as JSON
                understood = task.args
            digest.update(f"{task.name}\0{understood}\0".encode())
        return digest.hexdigest()


class Submissions:
    """Writes orders: many small ones in one commit, large ones apart so that they hold up none."""

    def __init__(self) -> None:
        self._small = Batcher("submissions", self._write, size=_size)
        self._large = Batcher("bulk submissions", self._write, limit=2)
        self._known = Batcher("known keys", _look_up)
        self._backlog = Backlog()
        # Whether the last order that was tried found PostgreSQL read-only or its disk full.
        self.refused = False

    async def accept(self, order: Order) -> str:
        """Return the answer when the order is on disk, or the first one given to its key.

        Raises TooManyWaiting, Invalid for a key that came with something else, StoreUnavailable.
        """
        try:
            await self._backlog.admit(len(order.tasks))
        except TooManyWaiting:
            # A repeated request was accepted already. Looked up here only: otherwise the write
            # finds the key without another round trip.
            if order.key is None or (first := await self._known.submit(order.key)) is None:
                raise
            return _first_answer(order, first)
        batcher = self._small if len(order.tasks) == 1 else self._large
        first = await batcher.submit(order)
        if first is None:
            return order.answer
        self._backlog.release(len(order.tasks))
        return _first_answer(order, first)

    @property
    def parts(self) -> tuple[Batcher[Any, Any] | Backlog, ...]:
        """What has a thread, to be closed; each takes as long as a Batcher."""
        return self._small, self._large, self._known, self._backlog

    def _write(self, orders: Sequence[Order]) -> list[idempotency.Key | None]:
        try:
            written = _write(orders)
        except StoreNotWritable:
            self.refused = True
            raise
        self.refused = False
        return written


def _size(order: Order) -> int:
    """Return about how many bytes a small order's arguments have."""
    return len(order.tasks[0].args)


def _first_answer(order: Order, first: idempotency.Key) -> str:
    """Return the answer given to the first request with a key. Raises Invalid for another one."""
    if first.fingerprint != order.fingerprint:
        what = "this Idempotency-Key was used before, for another request: use a new one"
        fault = {"detail": what, "pointer": "Idempotency-Key"}
        raise Invalid(f"The request is not valid: {what}.", [fault])
    return first.answer


def _look_up(keys: Sequence[str]) -> list[idempotency.Key | None]:
    with single() as connection:
        found = idempotency.find(connection, keys)
    return [found.get(key) for key in keys]


def _write(orders: Sequence[Order]) -> list[idempotency.Key | None]:
    """Write what is new of the orders in one commit; return, for the others, their first use."""
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
        uses = [_earlier_use(order, counts) for order in orders]
        new = [order for order, earlier in zip(orders, uses, strict=True) if earlier is None]
        if new:
            ledger.submit(connection, [task for order in new for task in order.tasks])
    return uses


def _earlier_use(order: Order, counts: dict[str, idempotency.Key]) -> idempotency.Key | None:
    """Return the use of an order's key by another request; None if the order is new."""
    if order.key is None:
        return None
    first = counts[order.key]
    # Answers hold the ids of their tasks, so no two are the same.
    return None if first.answer == order.answer else first


class Backlog:
    """How many tasks wait: counted once a second at most, and what this process added since."""

    def __init__(self) -> None:
        self._limit = settings().max_waiting
        self._samples = Batcher("backlog", self._sample)
        self._sampled_at = -math.inf
        self._counted = 0
        self._added = 0
        self._claimed: int | None = None
        self._rate = 0.0

    async def admit(self, count: int) -> None:
        """Let `count` more tasks wait. Raises TooManyWaiting, saying when to try again."""
        if time.monotonic() - self._sampled_at > SAMPLE_SECONDS:
            await self._samples.submit(None)
        over = self._counted + self._added + count - self._limit
        if over > 0:
            seconds = math.ceil(over / self._rate) if self._rate else 30
            raise TooManyWaiting(self._limit, min(max(seconds, 1), 300))
        self._added += count

    def release(self, count: int) -> None:
        """Let `count` admitted tasks not count as waiting: they are none, or had been counted."""
        self._added = max(self._added - count, 0)

    def close(self) -> None:
        """End the thread."""
        self._samples.close()

    def _sample(self, asked: Sequence[None]) -> list[None]:
        with single() as connection:
            waiting, claimed = outbox.backlog(connection, self._limit)
        now = time.monotonic()
        if self._claimed is not None and claimed > self._claimed:
            self._rate = (claimed - self._claimed) / (now - self._sampled_at)
        self._counted, self._added, self._claimed, self._sampled_at = waiting, 0, claimed, now
        return [None] * len(asked)
