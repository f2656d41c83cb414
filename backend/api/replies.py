"""Waits for outcomes: a reply wakes the waiting requests, and usually has the outcome.

Each API process has one reply queue and one thread that reads it. A reply may be lost, or go to
another replica: waiting requests also read the ledger every 250 ms, all with one statement.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kombu import Consumer, Exchange, Queue

from backend.api.event_drain import CLOSE_SECONDS, HEARTBEAT_SECONDS, READ_SECONDS, EventDrain
from backend.broker.connection import connect, pause_after
from backend.broker.outage import broker_outage
from backend.broker.queues import CLASSIC
from backend.broker.reply import decode, new_reply_queue
from backend.errors import Overloaded, StoreUnavailable
from backend.loop import Loop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from kombu import Connection

    from backend.db.records import TaskRecord

POLL_SECONDS = 0.25


class _Wait(asyncio.Event):
    """Wakes a waiting request; `outcome` is None if it has to read the ledger."""

    outcome: TaskRecord | None = None


class ReplyListener:
    """Reads this process's reply queue. `connected` is true while the broker can be reached."""

    def __init__(
        self,
        look: Callable[[str], Awaitable[TaskRecord | None]],
        open_connection: Callable[..., Connection] = connect,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        """Start reading. `look` returns a task's state from the ledger."""
        self.connected = False
        self.queue_name = new_reply_queue()
        self._look = look
        self._open_connection = open_connection
        self._poll_seconds = poll_seconds
        self._loop = asyncio.get_running_loop()
        self._waiting: defaultdict[str, set[_Wait]] = defaultdict(set)
        self._listener = Loop(
            "replies",
            "wakes requests that wait for a task's end",
            self._read,
            pause_after=pause_after("replies"),
        )
        self._stopping = self._listener.stopping
        self._listener.start()

    def stop_waiting(self) -> None:
        """Stop reading, and answer every waiting request with the current state.

        Each HTTP connection calls it; only the first call does anything.
        """
        if self._stopping.is_set():
            return
        self._stopping.set()
        for waiting in self._waiting.values():
            for changed in waiting:
                changed.set()

    async def wait(
        self, task_id: str, seconds: float, gone: Callable[[], bool] | None = None
    ) -> TaskRecord | None:
        """Return the task's state once it has ended, `seconds` have passed or the process stops.

        Returns also when the client has left (`gone` returns true). Returns None for an id that the
        ledger lacks. Raises StoreUnavailable or Overloaded if the last read failed. It takes about
        `seconds`, and longer if a read of the ledger takes long.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        changed = _Wait()
        self._waiting[task_id].add(changed)
        try:
            while changed.outcome is None:
                # Clear it before the read: a reply that arrives during the read leads to another
                # read.
                changed.clear()
                begin = loop.time()
                left = deadline - begin
                try:
                    state = await self._look(task_id)
                except (StoreUnavailable, Overloaded):
                    now = loop.time()
                    left = deadline - now
                    # The next read may take as long as this one.
                    if left <= now - begin or self._is_over(gone):
                        raise
                else:
                    if state is None or state.ended or left <= 0 or self._is_over(gone):
                        return state
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(left, self._poll_seconds)):
                        await changed.wait()
            return changed.outcome
        finally:
            self._waiting[task_id].discard(changed)
            if not self._waiting[task_id]:
                del self._waiting[task_id]

    def _is_over(self, gone: Callable[[], bool] | None) -> bool:
        """Return whether a wait is to end: the process stops, or the client has left."""
        return self._stopping.is_set() or (gone is not None and gone())

    def close(self) -> None:
        """Tell the thread to stop, and wait for it, at most CLOSE_SECONDS."""
        self._listener.close(CLOSE_SECONDS)

    def _read(self) -> None:
        connection = self._open_connection(heartbeat=HEARTBEAT_SECONDS)
        try:
            # The queue survives a lost connection. The broker deletes it after 600 s without a
            # consumer.
            queue = Queue(
                self.queue_name,
                Exchange(""),
                self.queue_name,
                durable=True,
                auto_delete=False,
                expires=600,
                queue_arguments=CLASSIC,
            )
            with Consumer(
                connection.channel(),
                [queue],
                callbacks=[self._on_reply],
                no_ack=True,
                accept=["json"],
            ):
                self.connected = True
                events = EventDrain(connection)
                while not self._stopping.is_set():
                    events.handle(timeout=READ_SECONDS)
                    # Only after a read: a read removes the message, so a read-only Redis
                    # refuses it, although it accepts connections.
                    if broker_outage.failing:
                        broker_outage.succeeded("replies")
        finally:
            self.connected = False
            connection.collect()

    def _on_reply(self, body: Any, _message: object) -> None:  # noqa: ANN401 - any message
        """Wake the requests that wait for a task of the reply."""
        if self._waiting:
            self._loop.call_soon_threadsafe(self._wake, decode(body))

    def _wake(self, ends: Mapping[str, TaskRecord | None]) -> None:
        for task_id, outcome in ends.items():
            for changed in self._waiting.get(task_id, ()):
                changed.outcome = outcome
                changed.set()
