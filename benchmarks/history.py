"""The history of a million tasks, by several filters: `python -m benchmarks.history`.

Prints the median time of the first page and of page 1,000, or of the last page if there are fewer.
"""

from __future__ import annotations

import json
import signal
import sys
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.load import Request, load
from benchmarks.machine import describe
from benchmarks.session import Bench
from benchmarks.tables import fill_history
from tests.support.servers import Missing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.contenders import Ours

TASKS = 1_000_000
LATE_PAGE = 1000
TIMES = 20
WANTED_MS = 100.0
LINE = "{:34}  {:>7}  {:>9}  {:>9}  {}"
HEAD = ("filter", "pages", "first ms", "late ms", "")

# Status, name, tag and error fit about a fifth of the tasks; the rare ones fit ten, the texts more.
FILTERS = {
    "none": "",
    "status": "status=FAILURE&status=REVOKED",
    "name": "name=slow",
    "tag": "tag=nightly",
    "error": "error=ConnectionRefusedError",
    "text": "text=77%22",
    "created": f"created_before={datetime.now(UTC) - timedelta(days=100):%Y-%m-%dT%H:%M:%SZ}",
    "status and name": "status=SUCCESS&name=slow",
    "a rare tag": "tag=rare",
    "a rare text": "text=Hello%201234",
    "a rare error": "error=RareError",
    "a name that no task has": "name=none",
}


def main() -> int:
    """Measure every filter; return 0 if no median is above WANTED_MS."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    try:
        with Bench(0, 0) as bench:
            machine = describe(bench)
            print(f"{machine['processor']}, {machine['cores']} cores, {machine['system']}")
            fill_history(bench.ours.database, TASKS)
            print(LINE.format(*HEAD), flush=True)
            good = [_measure(bench.ours, name) for name in FILTERS]
            return 0 if all(good) else 1
    except Missing as missing:
        sys.exit(f"benchmarks.history: {missing}")


def _measure(ours: Ours, name: str) -> bool:
    """Print a filter's line; return whether its medians are good."""
    first, page = _ask(ours, FILTERS[name], "", TIMES)
    late, pages, found = 0.0, 1, len(page["tasks"])
    while page["next"] and pages < LATE_PAGE:
        before = page["next"]
        _, page = _ask(ours, FILTERS[name], before, 1)
        pages, found = pages + 1, found + len(page["tasks"])
    if pages > 1:
        late, page = _ask(ours, FILTERS[name], before, TIMES)
    good = max(first, late) <= WANTED_MS
    note = f"{found:,} tasks{'' if good else ', too slow'}"
    print(LINE.format(name, pages, f"{first:.1f}", f"{late:.1f}", note), flush=True)
    return good


def _ask(ours: Ours, query: str, before: str, times: int) -> tuple[float, Mapping[str, Any]]:
    """Request a page `times` times; return the median in ms and the page."""
    parts = [part for part in (query, f"before={before}" if before else "") if part]
    request = Request(f"/tasks/history?{'&'.join(parts)}")
    answers = load(ours.url, lambda: request, connections=1, count=times)
    if answers.bad:
        sys.exit(f"{request.path} got {answers.bad}")
    return median(answers.latencies) * 1000, json.loads(answers.bodies[0])


if __name__ == "__main__":
    sys.exit(main())
