"""POST /tasks/batch with 1,000 tasks: accepted tasks per second."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from benchmarks.contenders import CONTENT
from benchmarks.load import Request, load
from benchmarks.results import Figures, Result
from benchmarks.session import check, settle

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.session import Bench

SIZE = 1_000
CONNECTIONS = 4
ITEM = {"name": "insert_message", "arguments": {"content": CONTENT}}
BATCH = Request("/tasks/batch", json.dumps([ITEM] * SIZE).encode())
NOT_FOUND = 404


def run(bench: Bench) -> Iterator[Result]:
    """Compare accepted tasks per second: ours by batches, the textbook by single posts."""
    ours, textbook = Figures("ours", "tasks/s"), Figures("textbook", "tasks/s")
    result = Result("batch", "POST /tasks/batch of 1,000", ours, textbook, wanted=70.0)
    first = load(bench.ours.url, lambda: BATCH, count=1)
    settle(bench.ours, first.ended, first.good * SIZE)
    bench.ours.clear()
    if NOT_FOUND in first.statuses:
        result.notes.append("not built")
        yield result
        return
    lates = []
    for _ in bench.turns():
        answers = load(
            bench.ours.url, lambda: BATCH, seconds=bench.seconds / 2, connections=CONNECTIONS
        )
        ours.values.append(answers.rate * SIZE)
        lates.append(check(bench.ours, answers, result, answers.good * SIZE))
        accepted = bench.ours.database.number("SELECT count(*) FROM tasks")
        if accepted != answers.good * SIZE:
            result.faults.append(f"{accepted} tasks of {answers.good * SIZE} in the ledger")
        bench.ours.clear()
        answers = bench.textbook.load(bench.seconds)
        textbook.values.append(answers.rate)
        check(bench.textbook, answers, result)
        bench.textbook.clear()
    result.notes.append(f"all published {max(lates):.1f} s after the last answer at the latest")
    yield result
