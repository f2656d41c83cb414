"""The pool of a worker with WORKER_POOL=threads, for tasks that wait for the network.

A thread cannot be killed. When its attempt must end, because of its time limit or a revoke, the
attempt is fenced: the ledger ends it at once, and its outcome no longer counts. The function runs
on. Until it returns, its thread counts towards WORKER_CONCURRENCY.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from celery.concurrency.base import BasePool
from celery.exceptions import TimeLimitExceeded, WorkerLostError

from backend import coroutines
from backend.db.session import session_engine
from backend.loop import start_thread
from backend.registry import registered
from backend.worker.attempt.attempt import Attempt
from backend.worker.attempt.thread import SharedCommits, run_attempt
from backend.worker.parent import lease

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backend.broker.wire import Delivery
    from backend.worker.attempt.report import Report

logger = logging.getLogger(__name__)

# How long fenced attempts may have all threads, before the worker ends itself.
HANG_SECONDS = 10.0


@dataclass(eq=False)
class _ThreadJob:
    """An attempt that has a thread, or waits for one.

    on_accepted, on_end, on_error: functions of jobs.py: for the begin, for the report, and for an
    error that the parent notices.
    """

    attempt: Attempt
    time_limit: float
    on_accepted: Callable[[int, float], None]
    on_end: Callable[[Report], None]
    on_error: Callable[[Any], None]
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
        # Jobs by the kernel's id of their thread.
        self._jobs: dict[int, _ThreadJob] = {}
        self._unstarted: deque[_ThreadJob] = deque()
        self._commits = SharedCommits()
        coroutines.share_event_loop(self.limit)
        session_engine()  # two threads at once would make two
        os.register_at_fork(after_in_child=_default_signals)
        # Calls that ended threads leave to the main thread, and the pipe that wakes it.
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
        """Start a thread for an attempt."""
        worker, (delivery,) = args
        attempt = Attempt(worker, delivery, registered()[delivery.name])
        job = _ThreadJob(attempt, timeout, accept_callback, callback, error_callback)
        self._unstarted.append(job)
        self._start_threads()

    def _start_threads(self) -> None:
        """Start threads for the attempts that wait for one; try again if the machine has none."""
        while self._unstarted:
            job = self._unstarted[0]
            try:
                name = f"task {job.attempt.spec.name}"
                thread = start_thread(name, "runs an attempt", partial(self._work, job))
            except RuntimeError as error:
                logger.warning("a thread cannot be started; tried again in a second: %s", error)
                self._hub.call_later(1.0, self._start_threads)
                return
            self._unstarted.popleft()
            number = thread.native_id or 0
            self._jobs[number] = job
            # Not `job`: kombu keeps the arguments of a timer that was cancelled.
            job.timer = self._hub.call_later(job.time_limit, self._time_out, number)
            job.on_accepted(number, time.monotonic())

    def flush(self) -> None:
        """Forget, after a lost connection, what has no thread: it comes again."""
        self._unstarted.clear()

    def terminate_job(self, pid: int, signal: object = None) -> None:  # noqa: ARG002 - Celery's
        """Fence the attempt of a thread, by the thread's id."""
        # In the next turn of the event loop: first Celery notes that it was terminated.
        self._hub.call_soon(self._fence, pid, WorkerLostError("terminated"))

    def busy(self) -> int:
        """Return how many attempts have a thread."""
        return len(self._jobs)

    def on_stop(self) -> None:
        """Wait for the attempts; lease.py ends the process if they take too long."""
        while any(not job.fenced_at for job in self._jobs.values()):
            with suppress(queue.Empty):
                self._calls.get(timeout=0.5)()
            # Heartbeats and time limits. Celery's event loop has ended.
            self._hub.fire_timers()
        self._commits.close()

    def _work(self, job: _ThreadJob) -> None:
        report = run_attempt(job.attempt, self._commits)
        self._calls.put(partial(self._end, threading.get_native_id(), report))
        with suppress(BlockingIOError):  # full: the main thread will wake up
            os.write(self._write, b".")

    def _handle_ends(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._read, 4096)
        with suppress(queue.Empty):
            while True:
                self._calls.get_nowait()()

    def _end(self, number: int, report: Report) -> None:
        job = self._jobs.pop(number)
        job.timer.cancel()
        coroutines.forget(number)
        try:
            if not job.fenced_at:
                job.on_end(report)
        except Exception:
            logger.exception("the end of an attempt could not be handled; its outcome counts")
        finally:
            self.options["semaphore"].release()

    def _time_out(self, number: int) -> None:
        self._handle_ends()  # it may have ended while the event loop was busy
        if number in self._jobs:
            self._fence(number, TimeLimitExceeded(self._jobs[number].time_limit))

    def _fence(self, number: int, error: Exception) -> None:
        job = self._jobs.get(number)
        if job is None or job.fenced_at:
            return
        job.fenced_at = time.monotonic()
        job.attempt.fenced = True
        coroutines.cancel(number)
        job.on_error(SimpleNamespace(exception=error))  # what jobs.py reads of billiard's class
        self._hub.call_later(HANG_SECONDS, self._end_if_all_hang)

    def _end_if_all_hang(self) -> None:
        before = time.monotonic() - HANG_SECONDS + 1
        if sum(0 < job.fenced_at < before for job in self._jobs.values()) >= self.limit:
            logger.critical(
                "all %d threads have attempts that were fenced %g s ago or earlier: this worker"
                " ends, and must be started again; give network calls in these tasks a timeout",
                self.limit,
                HANG_SECONDS - 1,
            )
            lease.end_now()


def _default_signals() -> None:
    """Let a process that a task has forked end by signals, which Celery's handlers only note."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
