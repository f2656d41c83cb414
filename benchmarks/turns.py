"""The rows of `make compare`: each prepares an empty service and yields a function, the turn.

A turn takes a second or two and returns a speed, a number per second. The machine's own speed
changes slowly, so many short turns in pairs are more accurate than a few long ones.
"""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.load import Request, load
from benchmarks.rows import batch, growth, listing, wait
from benchmarks.rows import ordinary as ordinary_tasks
from benchmarks.rows.done import finish, work_off
from benchmarks.session import check
from benchmarks.tables import fill

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from benchmarks.contenders import Ours
    from benchmarks.load import Load
    from benchmarks.results import Result

    Turn = Callable[[], float]
    Row = Callable[[Ours, float, Result], AbstractContextManager[Turn]]

SLOW = {"name": "slow", "arguments": {"duration": 3600}}
SLOW_BATCH = Request("/tasks/batch", json.dumps([SLOW] * batch.SIZE).encode())
ROWS_STORED = 100_000


@contextmanager
def post(ours: Ours, seconds: float, result: Result) -> Iterator[Turn]:
    """Measure POST /tasks/ over 32 connections without a worker."""
    yield lambda: _submit(ours, lambda: ours.load(seconds), result, 1)


@contextmanager
def post_batch(ours: Ours, seconds: float, result: Result) -> Iterator[Turn]:
    """Measure POST /tasks/batch with 1,000 tasks, without a worker, in tasks per second."""

    def submit() -> Load:
        connections = batch.CONNECTIONS
        return load(ours.url, lambda: batch.BATCH, seconds=seconds / 2, connections=connections)

    yield lambda: _submit(ours, submit, result, batch.SIZE)


@contextmanager
def post_working(ours: Ours, seconds: float, result: Result) -> Iterator[Turn]:
    """Measure POST /tasks/ while a worker works; only the time of posting counts."""

    def turn() -> float:
        _, answers = work_off(ours, lambda: ours.load(seconds), ours.messages, result)
        ours.clear()
        return answers.rate

    with ours.worker():
        yield turn


@contextmanager
def done(ours: Ours, seconds: float, result: Result) -> Iterator[Turn]:
    """Measure message tasks from the first post to the last row in `messages`."""

    def turn() -> float:
        rate = finish(ours, seconds, result)
        ours.clear()
        return rate

    with ours.worker():
        yield turn


@contextmanager
def ordinary(ours: Ours, seconds: float, result: Result) -> Iterator[Turn]:
    """Measure `slow` tasks of 0 s from the first post to the last end."""

    def turn() -> float:
        rate = ordinary_tasks.finish(ours, seconds, result)
        ours.clear()
        return rate

    with ours.worker():
        yield turn


@contextmanager
def submit_and_wait(ours: Ours, seconds: float, result: Result) -> Iterator[Turn]:
    """Submit one task after another and wait for each with `wait=`; 1 / median of the times."""

    def turn() -> float:
        times = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            took, reported = wait.once(ours.url)
            times.append(took)
            if reported != "SUCCESS":
                result.faults.append(f"{ours.name} answered {reported}")
        return 1 / median(times)

    with ours.worker():
        yield turn


@contextmanager
def list_tasks(ours: Ours, seconds: float, result: Result) -> Iterator[Turn]:
    """Request one GET /tasks/ after another, with an idle worker; 1 / median of the times."""
    with ours.worker():
        yield lambda: 1000 / listing.ask(ours, result, 0, seconds=seconds)


@contextmanager
def list_queued(ours: Ours, seconds: float, result: Result) -> Iterator[Turn]:
    """Do the same with 10,000 tasks in the queue."""
    answers = load(ours.url, lambda: SLOW_BATCH, count=listing.QUEUED // batch.SIZE, connections=1)
    check(ours, answers, result, listing.QUEUED)
    with ours.worker():
        yield lambda: 1000 / listing.ask(ours, result, listing.QUEUED, seconds=seconds)


@contextmanager
def state(ours: Ours, seconds: float, result: Result) -> Iterator[Turn]:
    """Measure GET /tasks/{id} of random ended tasks."""
    fill(ours.database, ROWS_STORED)
    yield lambda: growth.measure(ours, _any_task, seconds, result)


@contextmanager
def messages(ours: Ours, seconds: float, result: Result) -> Iterator[Turn]:
    """Measure GET /messages/, the newest page."""
    fill(ours.database, ROWS_STORED)
    yield lambda: growth.measure(ours, lambda: Request("/messages/"), seconds, result)


ROWS: dict[str, Row] = {
    "post": post,
    "post-working": post_working,
    "batch": post_batch,
    "done": done,
    "ordinary": ordinary,
    "wait": submit_and_wait,
    "list": list_tasks,
    "list-queued": list_queued,
    "state": state,
    "messages": messages,
}


def _submit(ours: Ours, submit: Callable[[], Load], result: Result, tasks: int) -> float:
    """Return accepted tasks per second, after all are published; each answer accepts `tasks`."""
    answers = submit()
    check(ours, answers, result, answers.good * tasks)
    ours.clear()
    return answers.rate * tasks


def _any_task() -> Request:
    return growth.KINDS["GET /tasks/{id}"](ROWS_STORED)
