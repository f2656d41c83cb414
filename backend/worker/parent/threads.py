"""The pool of a worker with WORKER_POOL=threads, for tasks that wait for the network.

A thread cannot be killed. When its attempt must end, because of its time limit or a revoke, the
attempt is fenced: the ledger ends it at once, and its outcome no longer counts. The function runs
on. Until it returns, its thread counts towards WORKER_CONCURRENCY.
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
from backend.worker.attempt.thread import SharedCommits, run_attempt
from backend.worker.parent import lease

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backend.broker.wire import Delivery
    from backend.worker.attempt.attempt import Report

logger = logging.getLogger(__name__)

# How long fenced attempts may have all threads, before the worker ends itself.
HANG_SECONDS = 10.0


@dataclass(eq=False)
class _ThreadJob:
    """An attempt that has a thread.

    on_end, on_error: the job's functions for its report, and for an error that the parent notices.
    """

    on_end: Callable[[Report], None]
    on_error: Callable[[Any], None]
    thread_id: int = 0  # the kernel's
    timer: Any = None  # kombu's, of the time limit
    fenced_at: float = 0.0  # monotonic; 0 while its outcome counts


class Threads(BasePool):
    """Gives each attempt a thread; `limit` of them at once.

    All but `_work` runs in the worker's main thread, that of the event loop.
    """

    # A job acquires the worker's semaphore before `on_apply`.
    uses_semaphore = True
    # Celery must not stop this pool inside a signal's handler.
    signal_safe = False
    runs_series = False

    limit: int
    options: dict[str, Any]
    _hub: Any  # kombu's event loop

    def on_start(self) -> None:
        """Make what the threads share."""
        self._jobs: set[_ThreadJob] = set()
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
        job = _ThreadJob(callback, error_callback)
        work = partial(self._work, job, worker, delivery)
        thread = start_thread(f"task {delivery.name}", "runs an attempt", work)
        job.thread_id = thread.native_id or 0
        self._jobs.add(job)
        job.timer = self._hub.call_later(timeout, self._fence, job, TimeLimitExceeded(timeout))
        accept_callback(job.thread_id, time.monotonic())

    def terminate_job(self, pid: int, signal: object = None) -> None:  # noqa: ARG002 - Celery's
        """Fence the attempt of a thread, by the thread's native id."""
        for job in self._jobs:
            if job.thread_id == pid:
                # Not here: first Celery has to note that it was terminated.
                self._hub.call_soon(self._fence, job, WorkerLostError("terminated"))

    def busy(self) -> int:
        """Return how many attempts have a thread."""
        return len(self._jobs)

    def on_stop(self) -> None:
        """Wait for the attempts; lease.py ends the process if they take too long."""
        while any(not job.fenced_at for job in self._jobs):
            with suppress(queue.Empty):
                self._calls.get(timeout=1.0)()
        self._commits.close()

    def _work(self, job: _ThreadJob, worker: str, delivery: Delivery) -> None:
        report = run_attempt(delivery, worker, self._commits)
        self._calls.put(partial(self._end, job, report))
        with suppress(BlockingIOError):  # full: the main thread will wake up
            os.write(self._write, b".")

    def _handle_ends(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._read, 4096)
        with suppress(queue.Empty):
            while True:
                self._calls.get_nowait()()

    def _end(self, job: _ThreadJob, report: Report) -> None:
        self._jobs.discard(job)
        job.timer.cancel()
        try:
            if not job.fenced_at:
                job.on_end(report)
        except Exception:
            logger.exception("the end of an attempt could not be handled; its outcome counts")
        finally:
            self.options["semaphore"].release()

    def _fence(self, job: _ThreadJob, error: Exception) -> None:
        if job.fenced_at or job not in self._jobs:
            return
        job.fenced_at = time.monotonic()
        job.on_error(SimpleNamespace(exception=error))  # what jobs.py reads of billiard's class
        coroutines.cancel(job.thread_id)
        self._hub.call_later(HANG_SECONDS, self._end_if_all_hang)

    def _end_if_all_hang(self) -> None:
        before = time.monotonic() - HANG_SECONDS + 1
        if sum(0 < job.fenced_at < before for job in self._jobs) >= self.limit:
            logger.critical(
                "all %d threads have attempts that were fenced %g s ago or earlier: this worker"
                " ends, and must be started again; give network calls in these tasks a timeout",
                self.limit,
                HANG_SECONDS - 1,
            )
            lease.end_now()
