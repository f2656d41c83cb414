"""GET /tasks/ with one idle worker, and with 10,000 tasks queued."""

from __future__ import annotations

import json
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.contenders import Ours
from benchmarks.load import Request, load
from benchmarks.results import Figures, Result

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.contenders import Contender
    from benchmarks.session import Bench

LIST = Request("/tasks/")
SLOW = Request("/tasks/slow?duration=3600", b"")
QUEUED = 10_000
TIMES = 20


def run(bench: Bench) -> Iterator[Result]:
    """Request one list after another; a second service with its own worker has 10,000 tasks."""
    full = bench.add(Ours, "ours-queued")
    idle, queued, textbook = (
        Figures(name, "ms") for name in ("ours", "ours, 10,000 queued", "textbook")
    )
    first = Result("list", "GET /tasks/, median", idle, textbook, wanted=1 / 400, bound="most")
    second = Result(
        "list", "GET /tasks/ with 10,000 queued", queued, idle, wanted=2.0, bound="most"
    )
    for contender in (bench.ours, bench.textbook, full):
        contender.clear()
    with bench.ours.worker(), bench.textbook.worker(), full.worker():
        load(full.url, lambda: SLOW, count=QUEUED)
        for _ in bench.turns():
            idle.values.append(ask(bench.ours, first, 0, count=TIMES))
            queued.values.append(ask(full, second, QUEUED, count=TIMES))
            textbook.values.append(ask(bench.textbook, first, 0, count=1))
    yield first
    yield second


def ask(contender: Contender, result: Result, expected: int, **amount: Any) -> float:
    """Request lists and check each; return the median latency in ms. `amount`: as for `load`."""
    answers = load(contender.url, lambda: LIST, connections=1, **amount)
    totals = {json.loads(body)["total"] for body in answers.bodies}
    if totals != {expected} or answers.bad:
        result.faults.append(f"{contender.name} reported {totals} tasks, not {expected}")
    return median(answers.latencies) * 1000
