"""POST /tasks/ with one API process, compared with the textbook and with the floor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.results import Figures, Result
from benchmarks.session import check

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.session import Bench

WHAT = "POST /tasks/, 32 connections"


def run(bench: Bench) -> Iterator[Result]:
    """Measure posts without a worker; the relay publishes at the same time."""
    contenders = bench.ours, bench.textbook, bench.floor
    ours, textbook, floor = (Figures(each.name, "tasks/s") for each in contenders)
    first = Result("post", WHAT, ours, textbook, wanted=5.0)
    second = Result("post", WHAT, ours, floor, wanted=0.6)
    lates = []
    for _ in bench.turns():
        for contender, figures in zip(contenders, (ours, textbook, floor), strict=True):
            contender.clear()
            answers = contender.load(bench.seconds)
            figures.values.append(answers.rate)
            late = 0.0
            if contender is not bench.floor:
                late = check(contender, answers, first)
            if contender is bench.ours:
                lates.append(late)
            second.generator_cpu = max(second.generator_cpu, answers.cpu_seconds / answers.seconds)
            contender.clear()
    first.notes.append(f"all published {max(lates):.2f} s after the last answer at the latest")
    second.faults = [fault for fault in first.faults if fault.startswith("ours")]
    yield first
    yield second
