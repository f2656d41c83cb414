"""Ordinary tasks: from the first post to the last end.

`slow` of 0 s writes nothing; `write_message` writes through its session.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from benchmarks.contenders import CONTENT, Ours
from benchmarks.load import Request, load
from benchmarks.rows.done import sustained, work_off

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.contenders import Contender
    from benchmarks.load import Load
    from benchmarks.results import Result
    from benchmarks.session import Bench

ORDINARY = Request("/tasks/slow?duration=0", b"")
WRITING = Request("/tasks/write_message", json.dumps({"content": CONTENT}).encode())
CONNECTIONS = 16
TASKS = 500  # for each second of a turn: about as many as end in a second


def run(bench: Bench) -> Iterator[Result]:
    """Post a number of tasks while a worker runs; the time ends when the last one has ended."""
    yield sustained(bench, "ordinary", "ordinary tasks: posted → ended", 1.5, finish)
    yield sustained(bench, "ordinary", "ordinary tasks that write", 1.0, finish_writing)


def finish(contender: Contender, seconds: float, result: Result) -> float:
    """Post, and wait until all have ended; return tasks per second of the whole time."""
    rate, _ = work_off(contender, lambda: post(contender, seconds), contender.ended, result)
    return rate


def finish_writing(contender: Contender, seconds: float, result: Result) -> float:
    """Do the same with tasks that write a message: the textbook's usual ones, and our ordinary."""
    request = WRITING if isinstance(contender, Ours) else contender.post
    rate, _ = work_off(
        contender, lambda: post(contender, seconds, request), contender.messages, result
    )
    return rate


def post(contender: Contender, seconds: float, request: Request = ORDINARY) -> Load:
    """Post about as many tasks as end in `seconds`; return the answers."""
    count = int(TASKS * seconds)
    return load(contender.url, lambda: request, count=count, connections=CONNECTIONS)
