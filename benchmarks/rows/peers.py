"""POST rates of the peers, for comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.contenders import Contender, Flower, Procrastinate, Taskiq
from benchmarks.results import Figures, Result
from benchmarks.session import check

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.session import Bench


def run(bench: Bench) -> Iterator[Result]:
    """Measure posts to each contender, until the tasks are where its workers would take them."""
    peers: list[Contender] = [bench.add(kind) for kind in (Flower, Taskiq, Procrastinate)]
    figures = {each.name: Figures(each.name, "tasks/s") for each in [bench.ours, *peers]}
    ours = figures[bench.ours.name]
    results = {
        peer.name: Result("peers", f"POST: {peer.name}", ours, figures[peer.name]) for peer in peers
    }
    for _ in bench.turns():
        for contender in [bench.ours, *peers]:
            contender.clear()
            answers = contender.load(bench.seconds)
            figures[contender.name].values.append(answers.rate)
            check(contender, answers, results.get(contender.name, results[peers[0].name]))
            contender.clear()
    yield from results.values()
