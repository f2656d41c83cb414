"""Requests that wait for a free child. If none becomes free, other workers get them."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from celery.worker.state import task_ready

from backend.worker.parent import lease

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from backend.worker.parent.request import LedgerRequest

# How long requests wait for a child before their messages go back to the broker.
BUSY_SECONDS = 0.5


class WaitingRequests:
    """The requests of one queue, in order, until a child is free.

    `start_job(requests)` takes the requests of the next job from the left, and gives them to the
    child that has become free. It returns False if it had to drop all of them.
    """

    def __init__(
        self,
        controller: Any,  # noqa: ANN401 - stubs lack half of it
        start_job: Callable[[deque[LedgerRequest]], bool],
    ) -> None:
        self._controller = controller
        self._start_job = start_job
        self._requests: deque[LedgerRequest] = deque()
        # kombu's consumer of the queue, on the current connection.
        self._source: Any = None
        # Identifies the wait for a child; the timer of an earlier wait does nothing.
        self._wait: object | None = None
        self._paused = False

    def connected(self, source: Any) -> None:  # noqa: ANN401 - kombu's consumer
        """Forget what waits: it comes again on the new connection, whose consumer is `source`."""
        for request in self._requests:
            task_ready(request)
        self._requests.clear()
        self._source, self._wait, self._paused = source, None, False

    def add(self, requests: Iterable[LedgerRequest]) -> None:
        """Let requests that have just arrived wait."""
        self._requests.extend(requests)
        self._added()

    def add_first(self, requests: Iterable[LedgerRequest]) -> None:
        """Let requests wait that a child was given, but has not begun; they are the next ones."""
        self._requests.extendleft(reversed(list(requests)))
        self._added()

    def _added(self) -> None:
        if self._paused:
            self._return_all()
        self._request_child()

    def _request_child(self) -> None:
        if not self._requests or self._wait is not None or lease.told_to_stop():
            return
        wait = self._wait = object()
        if not self._controller.semaphore.acquire(self._on_free_child):
            self._controller.hub.call_later(BUSY_SECONDS, self._give_up, wait)

    def _on_free_child(self) -> None:
        self._wait = None
        if self._paused:
            self._paused = False
            # Not here: an error of the connection would make billiard lose the result of the job
            # that has just ended.
            self._controller.hub.call_soon(self._source.consume)
        if not (self._requests and self._start_job(self._requests)):
            self._controller.semaphore.release()
        self._request_child()

    def _give_up(self, wait: object) -> None:
        """Stop consuming and return messages to the broker, until a child is free."""
        if wait is self._wait and not (self._paused or lease.told_to_stop()):
            self._paused = True
            self._source.cancel()
            self._return_all()

    def _return_all(self) -> None:
        """Return the messages of this queue; keep requests whose message was acknowledged."""
        kept = []
        for request in self._requests:
            # The queue of short tasks, which has another channel, may be consumed still.
            if request.acknowledged or request.message.channel is not self._source.channel:
                kept.append(request)
            else:
                request.return_to_broker()
        self._requests.clear()
        self._requests.extend(kept)
