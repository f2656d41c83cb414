"""The memory of all processes of a contender together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.results import Figures, Result
from benchmarks.rows.done import finish

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.contenders import Contender
    from benchmarks.session import Bench

LOAD_SECONDS = 1.0


def run(bench: Bench) -> Iterator[Result]:
    """Restart both contenders, let them work in turn, and measure memory after each turn."""
    contenders: tuple[Contender, ...] = bench.ours, bench.textbook
    ours, textbook = (Figures(each.name, "MiB") for each in contenders)
    result = Result("memory", "memory, all processes", ours, textbook, wanted=1.25, bound="most")
    for contender in contenders:
        contender.clear()
        contender.restart()
    with bench.ours.worker(), bench.textbook.worker():
        for _ in bench.turns():
            for contender, figures in zip(contenders, (ours, textbook), strict=True):
                finish(contender, LOAD_SECONDS, result)
                weights = contender.processes.memory()
                figures.values.append(sum(weights.values()))
        for contender in contenders:
            weights = contender.processes.memory()
            each = ", ".join(f"{name} {weight:.0f}" for name, weight in weights.items())
            result.notes.append(f"{contender.name}: {each}")
    for contender in contenders:
        contender.clear()
    yield result
