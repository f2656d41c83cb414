"""A message posted behind 500 slow tasks that keep every process of the worker busy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.load import Request, load
from benchmarks.results import Figures, Result
from benchmarks.rows.wait import once

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.session import Bench

SLOW = Request("/tasks/slow?duration=20", b"")
TASKS = 500
TIMES = 20


def run(bench: Bench) -> Iterator[Result]:
    """Post slow tasks, then messages one after the other; take the slowest message of each turn."""
    ours = Figures("ours", "ms")
    result = Result(
        "behind", f"a message behind {TASKS} slow tasks", ours, wanted=1000, bound="most"
    )
    bench.ours.clear()
    with bench.ours.worker():
        once(bench.ours.url)  # warm
        load(bench.ours.url, lambda: SLOW, count=TASKS)
        for _ in bench.turns():
            answers = [once(bench.ours.url) for _ in range(TIMES)]
            ours.values.append(max(took for took, _ in answers) * 1000)
            result.faults += [f"read {status}" for _, status in answers if status != "SUCCESS"]
    bench.ours.clear()
    yield result
