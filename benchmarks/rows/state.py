"""GET /tasks/{id} of an ended task, with a million tasks in the ledger."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING

from benchmarks.load import Request, load
from benchmarks.results import Figures, Result
from benchmarks.tables import task_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.contenders import Ours
    from benchmarks.load import Load
    from benchmarks.session import Bench

ROWS = 1_000_000
LOOKS = 400


def run(bench: Bench) -> Iterator[Result]:
    """Read random tasks, so that no cache has them, and check every answer."""
    full = bench.filled(ROWS)
    ours, floor = Figures("ours", "requests/s"), Figures("floor", "requests/s")
    result = Result("state", "GET /tasks/{id}, 1,000,000 tasks", ours, floor, wanted=0.9)
    for _ in bench.turns():
        answers = load(full.url, any_task, seconds=bench.seconds)
        ours.values.append(answers.rate)
        _read(answers, result)
        answers = load(bench.floor.url, any_task, seconds=bench.seconds)
        floor.values.append(answers.rate)
        result.generator_cpu = max(result.generator_cpu, answers.cpu_seconds / answers.seconds)
    _ask_two_processes(full, result)
    yield result


def any_task() -> Request:
    """Return a request for a random one of the million tasks."""
    return Request(f"/tasks/{task_id(random.randint(1, ROWS))}")


def _read(answers: Load, result: Result) -> None:
    """Compare every answer with the task that is in the ledger."""
    wrong = 0
    for body in answers.bodies:
        told = json.loads(body)
        number = int(told["task_id"][-12:], 16)
        wrong += told["status"] != "SUCCESS" or told["result"]["id"] != number
    if wrong or answers.bad:
        result.faults.append(f"{wrong} wrong answers, {answers.bad}")


def _ask_two_processes(full: Ours, result: Result) -> None:
    """Check that two API processes give the same answers; a connection may reach either."""
    full.processes.stop("api")
    full.start_api(workers=2)
    _read(load(full.url, any_task, count=LOOKS), result)
    result.notes.append(f"{LOOKS} answers of two processes read")
    full.processes.stop("api")
    full.start_api()
