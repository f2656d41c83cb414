"""Renews the lease: a thread of the parent process writes what the worker holds, every 2 s.

It runs as long as the process, even while the broker is away. It also writes to the ledger the ends
of attempts that only the parent process notices.
"""

from __future__ import annotations

import gc
import logging
import os
import queue
import signal
import time
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from celery import bootsteps
from celery.signals import (
    worker_init,
    worker_process_init,
    worker_shutdown,
)
from celery.worker import state as celery_state

from backend.db import leases, ledger, locked
from backend.db.session import identify, lease_engine, transaction
from backend.errors import StoreLocked, StoreUnavailable
from backend.loop import Loop, start_thread
from backend.settings import settings
from backend.states import REVOKED
from backend.worker import current_line, durations, stopping
from backend.worker.parent import held, subprocesses

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from backend.worker.parent.request import LedgerRequest

logger = logging.getLogger(__name__)

# How long the process may take to end after it has handed back what runs.
EXIT_TIMEOUT = 4.0
# Seconds to retry a write while PostgreSQL is away; then the reconciler handles the task.
WRITE_TIMEOUT = 60.0


# Variables that Celery sets later. A new variable moves the environment in memory: a thread that
# connects to PostgreSQL at that moment (libpq calls getenv) crashes the worker. A new value of an
# existing variable does not move it.
CELERY_VARIABLES = (
    "celery_dummy_proxy",
    "CELERY_LOG_LEVEL",
    "CELERY_LOG_FILE",
    "_MP_FORK_LOGLEVEL_",
    "_MP_FORK_LOGFILE_",
    "_MP_FORK_LOGFORMAT_",
)

# A blueprint's states once it stops; the stubs leave them out.
_CLOSING = {bootsteps.CLOSE, bootsteps.TERMINATE}  # type: ignore[attr-defined]  # as said


class Lease:
    """Renews a worker's lease until the worker stops."""

    def __init__(self, worker: Any) -> None:  # noqa: ANN401 - stubs lack half of WorkController
        self._worker = worker
        self._name: str = worker.hostname
        self._writes: queue.SimpleQueue[tuple[float, Callable[[], None]]] = queue.SimpleQueue()
        self._renew_at = 0.0
        self._stop_seconds = settings().stop_seconds
        self._loop = Loop(
            "lease",
            "renews this worker's lease, writes what only the parent process notices",
            self._turn,
        )
        self._stopping = self._loop.stopping
        self._lost_before: set[str] = set()
        self._kills: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._locked = False
        self._loop.start()
        start_thread(
            "stop watch", "ends this worker if it does not stop in time", self._watch_for_stop
        )

    def write_soon(self, write: Callable[[], None]) -> None:
        """Call `write` in the lease's thread, and again for WRITE_TIMEOUT while it cannot write."""
        self._writes.put((time.monotonic() + WRITE_TIMEOUT, write))

    def end(self) -> None:
        """Hand back the tasks that did not end, and end the lease; returns within 5 s."""
        self._loop.close(2)
        self._hand_back_soon()

    def _turn(self) -> None:
        now = time.monotonic()
        if now >= self._renew_at:
            self._renew_at = now + leases.RENEW_SECONDS
            self._guarded(self._renew)
        try:
            until, write = self._writes.get(timeout=0.2)
        except queue.Empty:
            return
        if self._stopping.is_set():
            return  # the worker kills its children: that is no error of what they run
        if not self._guarded(write) and time.monotonic() < until:
            self._writes.put((until, write))
            self._stopping.wait(0.5)

    def _watch_for_stop(self) -> None:
        """End the process after it was told to stop, even if another thread hangs.

        If tasks still run, it ends STOP_SECONDS after it was told to stop; else EXIT_TIMEOUT after
        `end` was called. This thread never uses PostgreSQL, which may hang.
        """
        while not (self.told_to_stop() or self._stopping.wait(0.2)):
            pass
        stopping.announce(time.monotonic() + self._stop_seconds)
        if not self._stopping.wait(self._stop_seconds):
            self.end_now(self._worker.exitcode or 0)
        time.sleep(EXIT_TIMEOUT)
        os._exit(self._worker.exitcode or 0)

    def told_to_stop(self) -> bool:
        """Return whether a signal, or the shutdown command of `celery control`, was received."""
        blueprint = getattr(self._worker, "blueprint", None)
        return (
            celery_state.should_stop is not None
            or celery_state.should_terminate is not None
            or (blueprint is not None and blueprint.state in _CLOSING)
        )

    def _guarded(self, step: Any) -> bool:  # noqa: ANN401 - any call without arguments
        """Call `step` and log its error; return False if PostgreSQL was away."""
        try:
            step()
        except StoreLocked:
            if not self._locked:
                logger.warning(
                    "another session of PostgreSQL holds a lock that the lease of %s needs: this"
                    " worker starts no ordinary task without a lease; end that session",
                    self._name,
                )
            self._locked = True
            return False
        except StoreUnavailable:
            return False
        except Exception:
            logger.exception("the lease of %s met an error; the worker goes on", self._name)
        else:
            self._locked = False
        return True

    def _renew(self) -> None:
        holds: Mapping[str, LedgerRequest] = {}

        def held_now() -> list[str]:
            nonlocal holds
            holds = held.attempts()
            return sorted(holds)

        with transaction(of=lease_engine) as connection:
            lost = leases.renew(
                connection, self._name, held_now, durations.long_tasks(), settings().queues
            )
        # A task that has just ended is held for a moment. So its attempt is killed only if the next
        # renewal finds it too. That of a revoked task is killed at once.
        for key, state in lost.items():
            revoked = state == REVOKED
            if revoked or key in self._lost_before:
                self._kills.put(partial(holds[key].kill, self._worker.pool, revoked=revoked))
        # There is no event loop while the worker starts, and in some kinds of pool.
        hub = getattr(self._worker, "hub", None)
        if hub is not None and not self._kills.empty():
            hub.call_soon(self.kill_lost)
        self._lost_before = set(lost)

    def kill_lost(self) -> None:
        """Kill the children of attempts that no longer count; for the event loop's thread.

        In another thread, a child could begin another attempt before it is killed.
        """
        while not self._kills.empty():
            self._kills.get()()

    def _hand_back(self) -> None:
        with transaction(of=lease_engine) as connection:
            started = locked.lock_started_by(connection, self._name)
            # This uses up no attempt: a stop is not an error of the task.
            again = ledger.reschedule(connection, started, self._name, waiting=False, free=True)
            leases.end(connection, self._name)
        if again:
            logger.info("running tasks handed back, to run again elsewhere: %d", len(again))

    def _hand_back_soon(self) -> None:
        """Hand back. If PostgreSQL does not answer within 2 s, the lease expires instead."""
        step = partial(self._guarded, self._hand_back)
        start_thread("hand back", "hands back tasks that did not end", step).join(timeout=2)

    def end_now(self, code: int) -> NoReturn:
        """End the process although tasks still run, leaving no child behind."""
        # From here on the lease is not renewed.
        self._stopping.set()
        try:
            # billiard has no other way to its processes; other kinds of pool have none.
            children = list(getattr(self._worker.pool._pool, "_pool", None) or ())  # noqa: SLF001
            subprocesses.kill_all(child.pid for child in children)
            self._hand_back_soon()
            logger.info("%s stops with tasks still running", self._name)
        finally:
            os._exit(code)


_lease: Lease | None = None


def write_soon(write: Callable[[], None]) -> None:
    """Let the lease's thread change the ledger; for the parent process."""
    if _lease is not None:
        _lease.write_soon(write)


def told_to_stop() -> bool:
    """Return whether this worker was told to stop; for the parent process."""
    return _lease is not None and _lease.told_to_stop()


def kill_lost() -> None:
    """Kill the children of attempts that no longer count; for the event loop's thread."""
    if _lease is not None:
        _lease.kill_lost()


def end_now() -> None:
    """End this worker with exit code 1: hand back what it runs and leave no child behind."""
    if _lease is not None:
        _lease.end_now(1)


@worker_init.connect
def _start(sender: Any, **_: object) -> None:  # noqa: ANN401 - as in Lease
    global _lease  # noqa: PLW0603 - one worker a process
    # The reconciler uses this name to break the connections of a dead worker.
    identify(sender.hostname)
    if subprocesses.WORKER_VARIABLE not in os.environ:  # `celery worker`, without a cleaner
        subprocesses.mark_worker()
    for name in CELERY_VARIABLES:
        os.environ.setdefault(name, "")
    # The children share the memory of objects that their garbage collector does not look at.
    gc.collect()
    gc.freeze()
    # The engine is made here, not in the lease's thread: making it imports modules. A process that
    # is forked while another thread imports a module waits without end when it imports the same.
    lease_engine()
    _lease = Lease(sender)


@worker_shutdown.connect
def _end(**_: object) -> None:
    if _lease is not None:
        _lease.end()


@worker_process_init.connect
def _in_child(**_: object) -> None:
    """Let a pool process die with its parent, but not from signals to the parent's group."""
    global _lease  # noqa: PLW0603 - the parent's, copied by fork
    _lease = None
    subprocesses.register_pool_process()
    current_line.answer_parent()
    _die_with_parent()


def _die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies (Linux only)."""
    import ctypes  # noqa: PLC0415 - needed once, in children only

    try:
        prctl = ctypes.CDLL(None, use_errno=True).prctl
    except (OSError, AttributeError):
        return  # not Linux: an orphan ends with its task, whose attempt is superseded
    pr_set_pdeathsig = 1
    prctl(pr_set_pdeathsig, signal.SIGKILL)
