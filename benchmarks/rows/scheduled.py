"""200,000 tasks that are due in an hour: the list, the worker's memory, and a bulk cancel."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from benchmarks.contenders import CONTENT, Ours
from benchmarks.load import Request, load
from benchmarks.results import Figures, Result
from benchmarks.rows.listing import LIST, TIMES, ask
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.session import Bench

SIZE = 1_000
SCHEDULED = 200_000
ITEM = {
    "name": "insert_message",
    "arguments": {"content": CONTENT},
    "options": {"countdown": 3600},
}
BATCH = Request("/tasks/batch", json.dumps([ITEM] * SIZE).encode())
CANCELLED = 10_000


def run(bench: Bench) -> Iterator[Result]:
    """Compare an idle service with one that has scheduled tasks; each has a worker."""
    full = bench.add(Ours, "ours-scheduled")
    what = f"{SCHEDULED:,} scheduled"
    idle, listed = Figures("idle", "ms"), Figures("ours", "ms")
    before, after = Figures("before", "MiB"), Figures("ours", "MiB")
    cancel = Figures("ours", "s")
    results = (
        Result("scheduled", f"GET /tasks/ with {what}", listed, idle, wanted=2.0, bound="most"),
        Result("scheduled", f"worker's memory, {what}", after, before, wanted=1.1, bound="most"),
        Result("scheduled", f"{CANCELLED:,} cancelled at once", cancel, wanted=2.0, bound="most"),
    )
    for contender in (bench.ours, full):
        contender.clear()
    with bench.ours.worker(), full.worker():
        empty = full.processes.memory()["worker"]
        answers = load(full.url, lambda: BATCH, count=SCHEDULED // SIZE, connections=4)
        if answers.bad:
            results[0].faults.append(f"the API answered {answers.bad}")
        left, before_id = SCHEDULED, None
        for _ in bench.turns():
            idle.values.append(ask(bench.ours, results[0], 0, count=TIMES))
            listed.values.append(ask(full, results[0], left, count=TIMES))
            before.values.append(empty)
            after.values.append(full.processes.memory()["worker"])
            seconds, before_id = _cancel(full, results[2], before_id)
            cancel.values.append(seconds)
            left -= CANCELLED
            eventually(lambda left=left: _total(full) == left, 5, "the list counts them")
    full.clear()
    yield from results


def _cancel(full: Ours, result: Result, before: str | None) -> tuple[float, str | None]:
    """Cancel tasks in one request; return the seconds until the answer, and its `next`."""
    body = {"filter": {"status": ["PENDING"]}, "before": before}
    request = Request("/tasks/cancel", json.dumps(body).encode())
    answers = load(full.url, lambda: request, count=1, connections=1)
    (answer,) = map(json.loads, answers.bodies)
    if answer["changed"] != CANCELLED:
        result.faults.append(f"cancelled {answer['changed']} tasks")
    return answers.seconds, answer["next"]


def _total(full: Ours) -> int:
    """Return how many tasks the list counts; it may be a second late."""
    (body,) = load(full.url, lambda: LIST, count=1, connections=1).bodies
    return int(json.loads(body)["total"])
