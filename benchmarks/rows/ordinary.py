"""From posting ordinary tasks to their end, sustained: `slow` of 0 s, which writes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.load import Request, load
from benchmarks.rows.done import sustained, work_off

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.contenders import Contender
    from benchmarks.load import Load
    from benchmarks.results import Result
    from benchmarks.session import Bench

ORDINARY = Request("/tasks/slow?duration=0", b"")
CONNECTIONS = 16
TASKS = 250  # for each second of a turn: about what is done in it


def run(bench: Bench) -> Iterator[Result]:
    """Post a number of tasks with a worker of two processes; the clock stops at the last end."""
    yield sustained(bench, "ordinary", "ordinary tasks: posted → ended", 1.5, finish)


def finish(contender: Contender, seconds: float, result: Result) -> float:
    """Post, and wait until all have ended; return tasks a second of all that time."""
    rate, _ = work_off(contender, lambda: post(contender, seconds), contender.ended, result)
    return rate


def post(contender: Contender, seconds: float) -> Load:
    """Post as many tasks as are done in about so many seconds."""
    count = int(TASKS * seconds)
    return load(contender.url, lambda: ORDINARY, count=count, connections=CONNECTIONS)
