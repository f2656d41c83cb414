"""From posting ordinary tasks to their end, sustained: `slow` of 0 s, which writes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.load import Request, load
from benchmarks.results import Figures, Result
from benchmarks.rows.done import work_off

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.contenders import Contender
    from benchmarks.load import Load
    from benchmarks.session import Bench

ORDINARY = Request("/tasks/slow?duration=0", b"")
CONNECTIONS = 16
TASKS = 250  # for each second of a turn: about what is done in it


def run(bench: Bench) -> Iterator[Result]:
    """Post a number of tasks with a worker of two processes; the clock stops at the last end."""
    contenders: tuple[Contender, ...] = bench.ours, bench.textbook
    ours, textbook = (Figures(each.name, "tasks/s") for each in contenders)
    result = Result("ordinary", "ordinary tasks: posted → ended", ours, textbook, wanted=1.5)
    for contender in contenders:
        contender.clear()
    with bench.ours.worker(), bench.textbook.worker():
        for contender in contenders:
            finish(contender, 0.2, result)  # warm
        for _ in bench.turns():
            for contender, figures in zip(contenders, (ours, textbook), strict=True):
                figures.values.append(finish(contender, bench.seconds, result))
    for contender in contenders:
        contender.clear()
    yield result


def finish(contender: Contender, seconds: float, result: Result) -> float:
    """Post, and wait until all have ended; return tasks a second of all that time."""
    rate, _ = work_off(contender, lambda: post(contender, seconds), contender.ended, result)
    return rate


def post(contender: Contender, seconds: float) -> Load:
    """Post as many tasks as are done in about so many seconds."""
    count = int(TASKS * seconds)
    return load(contender.url, lambda: ORDINARY, count=count, connections=CONNECTIONS)
