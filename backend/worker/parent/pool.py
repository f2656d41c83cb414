"""Celery's process pool, with fixes for lost connections and killed children.

When the connection to the broker is lost, Celery's event loop starts over and forgets what it was
reading from the children. Celery handles that only when a worker stops
(`ResultHandler._finish_partial_read` in celery.concurrency.asynpool, 5.7).
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from celery.concurrency.asynpool import AsynPool
from celery.concurrency.asynpool import ResultHandler as CeleryResults
from celery.concurrency.prefork import TaskPool

from backend.worker import current_line, tickets
from backend.worker.current_line import ANSWER_SECONDS
from backend.worker.parent import subprocesses

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)


class Results(CeleryResults):
    """Reads the children's results; continues one that was read in part."""

    fileno_to_outq: dict[int, Any]  # the child that writes to each pipe
    _hub: Any  # kombu's event loop

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # By pipe: the child whose message was read last, and the generator that reads it.
        self._last: dict[int, tuple[Any, Any]] = {}

    def _recv_message(self, add_reader: object, fd: int, callback: Callable[[Any], None]) -> Any:  # noqa: ANN401 - a generator
        """Return the generator that reads a child's next message, or the rest of one.

        Celery would read the rest as a new message, and its first bytes as the length. The child's
        slot is then lost until the time limit of its task, and the worker may end.
        """
        child = self.fileno_to_outq[fd]
        reading = self._unfinished(child, fd)
        if reading is None:
            reading = super()._recv_message(add_reader, fd, callback)  # type: ignore[misc]  # missing in the stubs
            self._last[fd] = child, reading
        return reading

    def read_rest(self, child: Any) -> None:  # noqa: ANN401 - billiard's Process
        """Read what there is of the message that a child was sending when it ended."""
        reading = self._unfinished(child, child.outqR_fd)
        # Another child's pipe may have the number of a closed one.
        if reading is not None and not child.outq._reader.closed:  # noqa: SLF001 - as Celery does
            with suppress(StopIteration, OSError, EOFError):
                next(reading)

    def _finish_partial_read(self, fd: int, proc: Any) -> bool:  # noqa: ANN401 - the same
        """Let Celery wait for the rest when the worker stops; False unless it never comes."""
        reading = self._unfinished(proc, fd)
        if reading is not None:
            self._hub.add_reader(fd, reading)
        dropped: bool = super()._finish_partial_read(fd, proc)  # type: ignore[misc]  # missing in the stubs
        return dropped

    def _unfinished(self, child: object, fd: int) -> Any:  # noqa: ANN401 - a generator or None
        owner, reading = self._last.get(fd, (None, None))
        return reading if owner is child and reading.gi_frame is not None else None


# When to look again for a child that has closed its pipe, in seconds.
LOOKS_AGAIN = (0.02, 0.1, 0.5)


def _try_fork() -> None:
    """Fork a process that ends at once. Raises OSError where that is not possible."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _time_to_answer(limit: float) -> float:
    return min(ANSWER_SECONDS, limit / 2)


class Processes(AsynPool):
    """Celery's pool of billiard processes, with our fixes."""

    ResultHandler = Results
    _pool: list[Any]
    _queues: dict[Any, Any]
    _registered_with_event_loop: bool
    _result_handler: Results
    _fork_failed = False
    _fileno_to_outq: dict[int, Any]
    _fileno_to_inq: dict[int, Any]
    _maxtasksperchild: int | None
    _cache: dict[int, Any]  # the jobs under way
    on_timeout_set: Callable[..., None]

    def on_job_ready(self, job: int, i: int, obj: object, inqW_fd: int) -> None:  # noqa: N803 - billiard's
        """Let a child take its next job, unless this was the last of MAX_TASKS_PER_CHILD.

        Celery would write the next job to the leaving child, where it waits until that has ended.
        """
        child = self._fileno_to_inq.get(inqW_fd)
        if child is not None and self._maxtasksperchild is not None:
            child.jobs_done = getattr(child, "jobs_done", 0) + 1
            if child.jobs_done >= self._maxtasksperchild:
                return
        super().on_job_ready(job, i, obj, inqW_fd)

    def _create_worker_process(self, i: int) -> Any:  # noqa: ANN401 - billiard's Process
        """Start and return a child; return None if the machine cannot start one at the moment.

        Celery would end the worker and all its tasks. The next `maintain_pool` tries again.
        """
        tickets.prepare(i)
        current_line.prepare(i)
        before = list(self._pool)
        try:
            if self._fork_failed:
                _try_fork()  # billiard leaves a pipe open each time that its own fork fails
            made = super()._create_worker_process(i)  # type: ignore[misc]  # missing in the stubs
        except OSError as error:
            unstarted = [each for each in self._pool if each not in before]
            # Not while the worker is starting, nor after the fork.
            if not self._registered_with_event_loop or any(each.pid for each in unstarted):
                raise
            for each in unstarted:
                self._pool.remove(each)
                self._process_cleanup_queues(each)  # type: ignore[attr-defined]  # missing in the stubs
            if not self._fork_failed:
                logger.warning("no process can be started; tried again soon: %s", error.strerror)
            self._fork_failed = True
            return None
        self._fork_failed = False
        return made

    def _create_timelimit_handlers(self, hub: Any) -> None:  # noqa: ANN401 - kombu's
        """Let `_on_hard_timeout` be called a moment before the time limit."""
        super()._create_timelimit_handlers(hub)  # type: ignore[misc]  # missing in the stubs
        self._call_later = hub.call_later
        set_limits = self.on_timeout_set

        def on_timeout_set(result: Any, soft: float | None, hard: float | None) -> None:  # noqa: ANN401 - billiard's
            set_limits(result, soft, hard and hard - _time_to_answer(hard))

        self.on_timeout_set = on_timeout_set

    def _on_hard_timeout(self, job: int) -> None:
        """Ask the child for the line that it executes; at the time limit, end it as Celery does."""
        result = self._cache.get(job)
        if result is None:
            return  # it has ended
        end = super()._on_hard_timeout  # type: ignore[misc]  # missing in the stubs
        for child in self._pool:
            if child.pid == result._worker_pid:  # noqa: SLF001 - no other way
                current_line.ask(child.index, child.pid)
        self._call_later(_time_to_answer(result._timeout), end, job)  # noqa: SLF001 - the same

    def _event_process_exit(self, hub: Any, proc: Any) -> None:  # noqa: ANN401 - kombu's, billiard's
        """Look at a child whose pipe was closed, and again soon while it has not ended.

        A process closes its files before it ends. Celery would look next after up to 5 s.
        """
        super()._event_process_exit(hub, proc)  # type: ignore[misc]  # missing in the stubs
        if proc in self._pool:
            for seconds in LOOKS_AGAIN:
                hub.call_later(seconds, self.maintain_pool)

    def process_flush_queues(self, proc: Any) -> None:  # noqa: ANN401 - billiard's Process
        """Kill the subprocesses of a child that has ended, and read what it has sent.

        Begin with the rest of a message that was read in part.
        """
        # Called twice for each child; its number is soon free for another process.
        if not getattr(proc, "_subprocesses_killed", False):
            proc._subprocesses_killed = True  # noqa: SLF001 - ours
            subprocesses.kill_with_subprocesses(proc.pid)
        self._result_handler.read_rest(proc)
        super().process_flush_queues(proc)

    def flush(self) -> None:
        """Forget, after a lost connection, what no child has begun.

        Handle ended children first: afterwards nothing shows that a job was written to
        one of them, and the next child gets the pipe with that job, or a part of it, still in it.
        """
        self.maintain_pool()
        super().flush()

    def destroy_queues(self, queues: Any, proc: Any) -> Any:  # noqa: ANN401 - the same
        """Close a child's pipes, as Celery does.

        Celery does not forget the number of the pipe, which may be the broker's connection next.
        """
        pipe = proc.outqR_fd
        if self._fileno_to_outq.get(pipe) is proc:
            del self._fileno_to_outq[pipe]
        return super().destroy_queues(queues, proc)

    def _track_child_process(self, proc: Any, hub: object) -> None:  # noqa: ANN401 - the same
        """Watch a child for its end, unless it has ended: then Celery has no descriptor of it.

        The loop may start over between a child's end and the next look at all children, every few
        seconds.
        """
        if getattr(proc, "_sentinel_poll", proc) is not None:
            super()._track_child_process(proc, hub)  # type: ignore[misc]  # missing in the stubs


class Pool(TaskPool):
    """The pool of a worker with WORKER_POOL=processes."""

    Pool = Processes
    _pool: Processes
    # A child takes several ordinary attempts at once.
    runs_series = True

    def busy(self) -> int:
        """Return how many children have begun their job."""
        return sum(job.accepted() for job in self._pool._cache.values())  # noqa: SLF001 - no other way
