"""The pool of processes: unfinished work when a worker's event loop restarts."""

from __future__ import annotations

import errno
import os
import pickle
import select
import struct
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from celery.concurrency.asynpool import AsynPool
from kombu.asynchronous import Hub

from backend.worker import current_line
from backend.worker.parent.pool import LOOKS_AGAIN, Processes, Results
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


HALF = 60


def message(value: object) -> bytes:
    """Return what a child writes to send a value."""
    body = pickle.dumps(value)
    return struct.pack(">i", len(body)) + body


def child(pipe: int, *, closed: bool = False) -> SimpleNamespace:
    """Return a child that writes to a pipe, which may be closed."""
    return SimpleNamespace(
        _subprocesses_killed=True,  # it has no process
        outqR_fd=pipe,
        outq=SimpleNamespace(_reader=SimpleNamespace(closed=closed, poll=lambda _: False)),
        _is_alive=lambda: False,
    )


class Scene:
    """A child's pipe, an event loop, and the values that were received."""

    def __init__(self) -> None:
        self.pipe, self._end = os.pipe()
        os.set_blocking(self.pipe, False)
        self.hub = Hub()
        self.child = child(self.pipe)
        self.received: list[Any] = []
        nothing = dict.fromkeys(
            (
                "outqueue",
                "get",
                "poll",
                "join_exited_workers",
                "putlock",
                "restart_state",
                "check_timeouts",
                "on_job_ready",
                "on_process_alive",
            )
        )
        self.results: Results = Results(cache={}, fileno_to_outq={self.pipe: self.child}, **nothing)
        self.results.on_state_change = self.received.append  # type: ignore[attr-defined]  # missing in the stubs
        self.start_loop()

    def start_loop(self) -> None:
        """Start or restart the event loop."""
        self.hub.reset()
        self.results.register_with_event_loop(self.hub)
        self.hub.add_reader(self.pipe, self.results.handle_event, self.pipe)

    def send(self, data: bytes) -> None:
        """Write to the pipe, and let the event loop read it."""
        os.write(self._end, data)
        loop = self.hub.create_loop()
        while select.select([self.pipe], [], [], 0)[0]:
            next(loop)

    def close(self) -> None:
        """Close all."""
        self.hub.close()
        os.close(self.pipe)
        os.close(self._end)


@pytest.fixture
def scene() -> Iterator[Scene]:
    """Give a scene."""
    made = Scene()
    yield made
    made.close()


def test_a_partly_read_result_is_completed_after_the_event_loop_restarts(scene: Scene) -> None:
    first = message("first" * HALF)
    scene.send(first[:HALF])
    scene.start_loop()
    scene.send(first[HALF:])
    scene.send(message("second"))
    assert scene.received == ["first" * HALF, "second"]


def test_the_rest_of_a_result_is_read_from_a_child_that_has_ended(scene: Scene) -> None:
    first = message("first" * HALF)
    scene.send(first[:HALF])
    scene.hub.reset()
    os.write(scene._end, first[HALF:])
    scene.results.read_rest(scene.child)
    assert scene.received == ["first" * HALF]


def test_a_child_that_ended_during_its_result_does_not_affect_its_successor(scene: Scene) -> None:
    scene.send(message("first" * HALF)[:HALF])
    scene.results.read_rest(scene.child)
    scene.results.fileno_to_outq[scene.pipe] = child(scene.pipe)
    scene.start_loop()
    scene.send(message("of the next"))
    assert scene.received == ["of the next"]


def test_the_event_loop_restarts_with_an_ended_child_in_the_pool(
    scene: Scene,
) -> None:
    pool = Processes.__new__(Processes)
    pool._track_child_process(SimpleNamespace(_sentinel_poll=None), scene.hub)
    assert scene.hub.readers.keys() == {scene.pipe}


def test_nothing_is_read_from_a_closed_pipe(scene: Scene) -> None:
    scene.send(message("first" * HALF)[:HALF])
    scene.child.outq._reader.closed = True
    os.write(scene._end, message("of the next"))
    scene.results.read_rest(scene.child)
    scene.results.fileno_to_outq[scene.pipe] = child(scene.pipe)
    scene.start_loop()
    scene.send(b"")
    assert scene.received == ["of the next"]


def test_a_worker_that_stops_after_a_restart_of_its_event_loop_reads_the_whole_result(
    scene: Scene,
) -> None:
    first = message("first" * HALF)
    scene.send(first[:HALF])
    scene.start_loop()
    os.write(scene._end, first[HALF:])
    assert scene.results._finish_partial_read(scene.pipe, scene.child) is False
    assert scene.received == ["first" * HALF]


def test_ended_children_are_handled_before_their_jobs_are_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[str] = []
    monkeypatch.setattr(AsynPool, "flush", lambda _: done.append("jobs forgotten"))
    pool: Any = Processes.__new__(Processes)
    pool.maintain_pool = lambda: done.append("children looked at")
    pool.flush()
    assert done == ["children looked at", "jobs forgotten"]


def test_the_file_descriptor_of_a_closed_pipe_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AsynPool, "destroy_queues", lambda *_: 1)
    pool = Processes.__new__(Processes)
    ended, other = child(5), child(6)
    pool._fileno_to_outq = {5: ended, 6: other}
    assert pool.destroy_queues((), ended) == 1
    assert pool.destroy_queues((), child(6)) == 1
    assert pool._fileno_to_outq == {6: other}


def test_a_child_that_closed_its_pipe_before_it_ended_is_checked_again_soon(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel closes the files of a process before waitpid() reports its end."""
    looks: list[str] = []
    pool: Any = Processes.__new__(Processes)
    ending, ended = SimpleNamespace(pid=1), SimpleNamespace(pid=2)
    pool._pool = [ending]
    monkeypatch.setattr(AsynPool, "_event_process_exit", lambda *_: None)
    pool.maintain_pool = lambda: looks.append("looked")
    for child in (ended, ending):
        pool._event_process_exit(scene.hub, child)

    def looked() -> bool:
        scene.hub.fire_timers()
        return len(looks) == len(LOOKS_AGAIN)

    eventually(looked, 5, "the child is checked again")


def test_a_child_at_its_task_limit_gets_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    free: list[int] = []
    monkeypatch.setattr(AsynPool, "on_job_ready", lambda *parts: free.append(parts[-1]))
    pool = Processes.__new__(Processes)
    pool._fileno_to_inq = {5: SimpleNamespace(), 6: SimpleNamespace()}
    pool._maxtasksperchild = 2
    for pipe in (5, 6, 5):
        pool.on_job_ready(0, 0, None, pipe)
    assert free == [5, 6]
    pool._maxtasksperchild = None
    pool.on_job_ready(0, 0, None, 5)
    assert free == [5, 6, 5], "without a limit every child gets jobs"


@pytest.mark.parametrize("limit", [60, 0.1])
def test_a_child_is_asked_for_its_line_before_its_time_limit_and_killed_at_it(
    monkeypatch: pytest.MonkeyPatch, limit: float
) -> None:
    later: list[tuple[float, Callable[..., object], int]] = []
    ended: list[int] = []
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(current_line, "ask", lambda *child: asked.append(child))
    monkeypatch.setattr(AsynPool, "_on_hard_timeout", lambda _, job: ended.append(job))
    pool = Processes.__new__(Processes)
    pool._pool = [SimpleNamespace(index=0, pid=5), SimpleNamespace(index=1, pid=6)]
    result = SimpleNamespace(_job=7, _worker_pid=6, _timeout=limit)
    pool._cache = {7: result}

    class Loop(Hub):
        def call_later(self, *timer: Any) -> Hub:
            later.append(timer)
            return self  # an object that can be weakly referenced

    pool._create_timelimit_handlers(Loop())
    pool.on_timeout_set(result, None, limit)
    for _ in range(2):
        _, call, job = later[-1]
        call(job)
    assert (asked, ended) == ([(1, 6)], [7])
    assert sum(seconds for seconds, *_ in later) == pytest.approx(limit)
    assert 0 < later[1][0] < limit
    pool._cache.clear()
    pool._on_hard_timeout(7)
    assert len(later) == 2, "the job has ended"


def test_a_failed_fork_does_not_end_the_worker(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pool = Processes.__new__(Processes)
    other, queues = SimpleNamespace(pid=1, dead=False), ("its", "queues")
    pool._pool, pool._queues = [other], {queues: None}

    def fail(_pool: object, _index: int) -> None:
        made = SimpleNamespace(pid=None, dead=False)
        pool._pool.append(made)
        pool._queues[queues] = made
        raise BlockingIOError(errno.EAGAIN, "no room")

    monkeypatch.setattr(AsynPool, "_create_worker_process", fail)
    with pytest.raises(OSError, match="no room"):
        pool._create_worker_process(1)
    pool._pool.pop()
    pool._registered_with_event_loop = True
    for _ in range(2):
        assert pool._create_worker_process(1) is None
    assert (pool._pool, pool._queues) == ([other], {queues: None})
    assert len(caplog.messages) == 1

    def fail_before(_pool: object, _index: int) -> None:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(AsynPool, "_create_worker_process", fail_before)
    assert pool._create_worker_process(1) is None
    assert pool._pool == [other], "the other process is still in the pool"

    monkeypatch.setattr(AsynPool, "_create_worker_process", fail)
    monkeypatch.setattr("backend.worker.parent.pool._try_fork", lambda: fail_before(None, 0))
    assert pool._create_worker_process(1) is None
    assert pool._queues == {queues: None}, "billiard's own fork is not called"
