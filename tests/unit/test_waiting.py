"""Requests that wait for a child, and go back to the broker when none becomes free."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest
from kombu.asynchronous.semaphore import LaxBoundedSemaphore

from backend.worker.parent.waiting import WaitingRequests

if TYPE_CHECKING:
    from backend.worker.parent.priority_queue import PriorityQueue


# Where the messages come from.
CHANNEL = object()


class Worker:
    """A worker with children, one by default, whose timers end when the test says so."""

    def __init__(self, children: int = 1) -> None:
        self.jobs: list[list[Any]] = []
        self.timers: list[Any] = []
        self.semaphore = LaxBoundedSemaphore(children)
        self.hub = SimpleNamespace(
            call_later=lambda _, *call: self.timers.append(call),
            call_soon=lambda call, *arguments: call(*arguments),
        )
        self.limit = 1
        self.sent: list[Any] = []
        self.waiting = WaitingRequests(self, self.next_job, lambda: self.limit)
        self.source = Mock(channel=CHANNEL)
        self.waiting.connected(self.source)

    def next_job(self, requests: PriorityQueue) -> Mock:
        self.jobs.append([requests.pop_first() for _ in range(min(2, len(requests)))])
        job = Mock(accepted=True)
        self.sent.append(job)
        return job

    def end_job(self, number: int = -1) -> None:
        """Let a job end, and its child be free."""
        self.waiting.ended(self.sent[number])
        self.semaphore.release()

    def fire_timers(self) -> None:
        """Let all timers end."""
        timers, self.timers = self.timers, []
        for function, *arguments in timers:
            function(*arguments)


@pytest.fixture
def worker() -> Worker:
    return Worker()


def requests(count: int) -> list[Mock]:
    message = Mock(channel=CHANNEL)
    return [Mock(message=message, acknowledged=False, priority=4) for _ in range(count)]


def test_each_free_child_gets_the_next_requests(worker: Worker) -> None:
    first, second, third = requests(3)
    worker.waiting.add([first])
    worker.waiting.add([second, third])
    assert worker.jobs == [[first]]
    worker.end_job()
    assert worker.jobs == [[first], [second, third]]


def test_requests_that_a_child_has_not_begun_are_the_next_ones(worker: Worker) -> None:
    first, second, third, fourth = requests(4)
    worker.waiting.add([first, second])
    worker.waiting.add([fourth])
    worker.waiting.add_first([second, third])
    worker.end_job()
    assert worker.jobs[1] == [second, third]


def test_messages_go_back_to_the_broker_while_all_children_are_busy(worker: Worker) -> None:
    running, waits, late = requests(3)
    worker.waiting.add([running])
    worker.waiting.add([waits])
    worker.source.cancel.assert_not_called()
    worker.fire_timers()
    worker.source.cancel.assert_called_once_with()
    waits.return_to_broker.assert_called_once_with()
    worker.waiting.add([late])
    late.return_to_broker.assert_called_once_with()
    worker.source.consume.assert_not_called()
    worker.end_job()
    worker.source.consume.assert_called_once_with()
    assert worker.jobs == [[running]]
    running.return_to_broker.assert_not_called()
    worker.waiting.add([waits])
    assert worker.jobs[1:] == [[waits]]


def test_only_messages_of_its_own_queue_go_back(worker: Worker) -> None:
    running, waits, acknowledged, short = requests(4)
    acknowledged.acknowledged = True
    short.message = Mock(channel=object())
    worker.waiting.add([running])
    worker.waiting.add([waits, acknowledged, short])
    worker.fire_timers()
    waits.return_to_broker.assert_called_once_with()
    acknowledged.return_to_broker.assert_not_called()
    short.return_to_broker.assert_not_called()
    worker.end_job()
    assert worker.jobs[1:] == [[acknowledged, short]]


def test_a_request_that_gets_a_child_in_time_does_not_go_back(worker: Worker) -> None:
    running, waits = requests(2)
    worker.waiting.add([running])
    worker.waiting.add([waits])
    worker.end_job()
    worker.fire_timers()
    waits.return_to_broker.assert_not_called()
    worker.source.cancel.assert_not_called()


def test_a_child_is_free_again_if_all_requests_of_a_job_were_dropped(worker: Worker) -> None:
    def drop(waiting: PriorityQueue) -> None:
        waiting.pop_first()

    waiting = WaitingRequests(worker, drop)
    waiting.connected(worker.source)
    waiting.add(requests(3))
    assert worker.semaphore.value == 1


def test_only_the_consumer_of_the_current_connection_goes_on_after_a_pause(worker: Worker) -> None:
    running, waits = requests(2)
    worker.waiting.add([running])
    worker.waiting.add([waits])
    worker.fire_timers()
    worker.source.cancel.assert_called_once_with()
    later: list[Any] = []
    worker.hub.call_soon = lambda *call: later.append(call)
    worker.end_job()
    (acquire,) = later
    acquire[0](*acquire[1:])
    worker.waiting.connected(Mock(channel=CHANNEL))
    for function, *arguments in later[1:]:
        function(*arguments)
    worker.source.consume.assert_not_called()


def test_a_new_connection_begins_without_requests_and_without_a_pause(worker: Worker) -> None:
    running, waits, after = requests(3)
    worker.waiting.add([running])
    worker.waiting.add([waits])
    worker.fire_timers()
    worker.semaphore.clear()
    worker.sent[0].accepted = False
    worker.waiting.connected(Mock())
    worker.waiting.add([after])
    after.return_to_broker.assert_not_called()
    assert worker.jobs[-1] == [after]


def test_children_beyond_the_limit_stay_free(worker: Worker) -> None:
    worker = Worker(children=3)
    worker.limit = 2
    first, second, third, fourth = requests(4)
    for request in (first, second, third):
        worker.waiting.add([request])
    assert (worker.jobs, worker.semaphore.value) == ([[first], [second]], 1)
    worker.end_job(0)
    assert (worker.jobs[2:], worker.semaphore.value) == ([[third]], 1)
    worker.waiting.add([fourth])
    worker.fire_timers()
    fourth.return_to_broker.assert_called_once_with()


def test_after_a_new_connection_jobs_that_a_child_has_begun_still_count(worker: Worker) -> None:
    worker = Worker(children=3)
    worker.limit = 2
    first, second, third, fourth = requests(4)
    worker.waiting.add([first])
    worker.waiting.add([second])
    worker.sent[1].accepted = False
    worker.waiting.connected(worker.source)
    worker.waiting.add([third])
    worker.waiting.add([fourth])
    assert worker.jobs[2:] == [[third]]


def test_what_a_job_gives_back_runs_before_what_waits(worker: Worker) -> None:
    first, second, third = requests(3)
    soon: list[Any] = []
    worker.hub.call_soon = soon.append
    worker.waiting.add([first, second])
    worker.waiting.add([third])
    worker.waiting.ended(worker.sent[0])
    worker.waiting.add_first([second])
    worker.semaphore.release()
    for call in soon:
        call()
    assert worker.jobs[1] == [second, third]
