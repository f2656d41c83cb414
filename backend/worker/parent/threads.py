"""The pool of a worker with WORKER_POOL=threads, for tasks that wait for the network.

A thread cannot be killed. When its attempt must end, because of its time limit or a revoke, the
attempt is fenced: it ends in the ledger at once, and its outcome no longer counts. The thread goes
on until its function returns, and takes no other task until then.
"""

from __future__ import annotations

import logging
import os
import queue
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from celery.concurrency.base import BasePool
from celery.exceptions import TimeLimitExceeded, WorkerLostError

from backend import coroutines
from backend.loop import start_thread
from backend.worker.attempt.thread import SharedCommits, run_in_thread
from backend.worker.parent import lease

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

    from backend.broker.wire import Delivery
    from backend.worker.attempt.attempt import Report

logger = logging.getLogger(__name__)

# How long fenced attempts may have all threads, before the worker ends itself.
HANG_SECONDS = 10.0


@dataclass(eq=False)
class _Run:
    """An attempt that has a thread.

    on_end, on_error: the job's functions for its report, and for an error that the parent notices.
    """

    on_end: Callable[[Report], None]
    on_error: Callable[[Any], None]
    thread: threading.Thread | None = None
    timer: Any = None  # kombu's, of the time limit
    fenced_at: float = 0.0  # monotonic; 0 while its outcome counts


class Threads(BasePool):
    """Gives each attempt a thread; `limit` of them at once.

    All but `_work` runs in the worker's main thread, that of the event loop.
    """

    # A job takes a place before `on_apply`.
    uses_semaphore = True
    # Not to be stopped from inside a signal's handler.
    signal_safe = False
    runs_series = False

    limit: int
    options: dict[str, Any]
    _hub: Any  # kombu's event loop

    def on_start(self) -> None:
        """Make what the threads share."""
        self._runs: set[_Run] = set()
        self._commits = SharedCommits()
        coroutines.share_event_loop()
        # What ended threads let the main thread call, and the pipe that wakes it.
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)

    def register_with_event_loop(self, loop: Any) -> None:  # noqa: ANN401 - kombu's hub
        """Handle the ends of attempts; called again after a lost connection."""
        self._hub = loop
        loop.add_reader(self._read, self._handle_ends)

    def on_apply(
        self,
        target: object,  # noqa: ARG002 - what a process would call
        args: tuple[str, Sequence[Delivery]],
        kwargs: object,  # noqa: ARG002 - of `target`
        *,
        accept_callback: Callable[[int, float], None],
        callback: Callable[[Report], None],
        error_callback: Callable[[Any], None],
        timeout: float,
        **_: object,
    ) -> None:
        """Start a thread for an attempt. Raises RuntimeError if the machine has no more."""
        worker, (delivery,) = args
        run = _Run(callback, error_callback)
        work = partial(self._work, run, worker, delivery)
        run.thread = start_thread(f"task {delivery.name}", "runs an attempt", work)
        self._runs.add(run)
        run.timer = self._hub.call_later(timeout, self._fence, run, TimeLimitExceeded(timeout))
        accept_callback(run.thread.native_id or 0, time.monotonic())

    def terminate_job(self, pid: int, signal: object = None) -> None:  # noqa: ARG002 - Celery's
        """Fence the attempt of a thread, by the thread's native id."""
        for run in self._runs:
            if run.thread and run.thread.native_id == pid:
                # Not here: first Celery has to note that it was terminated.
                self._hub.call_soon(self._fence, run, WorkerLostError("terminated"))

    def busy(self) -> int:
        """Return how many places have attempts that run."""
        return len(self._runs)

    def on_stop(self) -> None:
        """Wait for the attempts; lease.py ends the process if they take too long."""
        while any(not run.fenced_at for run in self._runs):
            with suppress(queue.Empty):
                self._calls.get(timeout=1.0)()
        self._commits.close()

    def _work(self, run: _Run, worker: str, delivery: Delivery) -> None:
        report = run_in_thread(delivery, worker, self._commits)
        self._calls.put(partial(self._end, run, report))
        with suppress(BlockingIOError):  # full: the main thread will wake up
            os.write(self._write, b".")

    def _handle_ends(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._read, 4096)
        with suppress(queue.Empty):
            while True:
                self._calls.get_nowait()()

    def _end(self, run: _Run, report: Report) -> None:
        self._runs.discard(run)
        run.timer.cancel()
        try:
            if not run.fenced_at:
                run.on_end(report)
        except Exception:
            logger.exception("the end of an attempt could not be handled; its outcome counts")
        finally:
            self.options["semaphore"].release()

    def _fence(self, run: _Run, error: Exception) -> None:
        if run.fenced_at or run not in self._runs:
            return
        run.fenced_at = time.monotonic()
        run.on_error(SimpleNamespace(exception=error))  # what jobs.py reads of billiard's class
        future = coroutines.waited_for(run.thread.native_id or 0) if run.thread else None
        if future is not None:
            # In the lease's thread, after it has ended the attempt in the ledger.
            lease.write_soon(future.cancel)
        self._hub.call_later(HANG_SECONDS, self._end_if_all_hang)

    def _end_if_all_hang(self) -> None:
        before = time.monotonic() - HANG_SECONDS + 1
        if sum(0 < run.fenced_at < before for run in self._runs) >= self.limit:
            logger.critical(
                "every thread has an attempt that no longer counts and does not end: this worker"
                " ends, and its tasks run again; give their functions time limits of their own"
            )
            lease.write_soon(lease.end_now)
