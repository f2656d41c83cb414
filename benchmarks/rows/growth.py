"""POST, state, list and messages with a thousand, a hundred thousand and a million rows."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.contenders import POST
from benchmarks.load import Request, load
from benchmarks.results import Figures, Result
from benchmarks.session import check
from benchmarks.tables import forget_waiting, task_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.contenders import Ours
    from benchmarks.session import Bench

SIZES = 1_000, 100_000, 1_000_000
NAMES = "1 thousand", "100 thousand", "1 million"
Kind = Callable[[int], Request]
KINDS: dict[str, Kind] = {
    "POST /tasks/": lambda _: POST,
    "GET /tasks/{id}": lambda rows: Request(f"/tasks/{task_id(random.randint(1, rows))}"),
    "GET /tasks/": lambda _: Request("/tasks/"),
    "GET /messages/": lambda _: Request("/messages/"),
}


def run(bench: Bench) -> Iterator[Result]:
    """Compare three services; the largest must reach two thirds of the smallest one's rates."""
    services = [(rows, bench.filled(rows)) for rows in SIZES]
    for what, kind in KINDS.items():
        figures = [Figures(name, "requests/s") for name in NAMES]
        small, medium, large = figures
        result = Result(
            "growth", f"{what}, 1 million to 1 thousand rows", large, small, wanted=1 / 1.25
        )
        result.also.append(medium)
        for _ in bench.turns():
            for (rows, service), each in zip(services, figures, strict=True):
                rate = measure(service, partial(kind, rows), bench.seconds / 3, result)
                each.values.append(rate)
        yield result


def measure(service: Ours, request: Callable[[], Request], seconds: float, result: Result) -> float:
    """Send requests for `seconds` and return answers per second; posted tasks are deleted."""
    answers = load(service.url, request, seconds=seconds)
    if request().body is None:
        if answers.bad:
            result.faults.append(f"{service.name} answered {answers.bad}")
    else:
        check(service, answers, result)
        forget_waiting(service.database)
        service.purge()
    return answers.rate
