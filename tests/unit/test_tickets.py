"""Tickets: which attempts of a job the child has begun, and which the parent has taken back."""

from __future__ import annotations

import os
import time

from backend.worker import tickets
from backend.worker.tickets import Tickets


def test_child_and_parent_take_each_ticket_once() -> None:
    job = Tickets()
    job.issue(5)
    assert [job.take(), job.take()] == [True, True]
    assert job.left() == 3
    assert job.take_rest() == 3
    assert [job.take(), job.left(), job.take_rest()] == [False, 0, 0]


def test_what_the_parent_sees_is_about_the_attempt_that_was_begun_last() -> None:
    job = Tickets()
    job.issue(3)
    job.take(locked=True)
    assert job.locked
    job.take()
    assert not job.locked
    job.take_rest()
    assert not job.take(locked=True)
    assert not job.locked


def test_a_job_gets_no_tickets_that_an_earlier_one_has_left() -> None:
    job = Tickets()
    job.issue(5)
    job.take()
    job.issue(2)
    assert job.take_rest() == 2


def test_waiting_ends_when_tickets_are_issued_and_at_its_deadline() -> None:
    job = Tickets()
    begin = time.monotonic()
    job.wait(tickets.WAIT_SECONDS)
    waited = time.monotonic() - begin
    assert tickets.WAIT_SECONDS <= waited < 2 * tickets.WAIT_SECONDS
    job.issue(1)
    job.wait(tickets.WAIT_SECONDS)
    assert time.monotonic() - begin < waited + tickets.WAIT_SECONDS
    assert job.take()


def test_a_child_takes_tickets_that_its_parent_issues_after_the_fork() -> None:
    tickets.prepare(1_000_000)
    job = tickets.of_child(1_000_000)
    assert job is not None
    pid = os.fork()
    if pid == 0:
        job.wait(tickets.WAIT_SECONDS)
        os._exit(sum(job.take(locked=True) for _ in range(3)))
    job.issue(2)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 2
    assert (job.left(), job.locked) == (0, True)
