"""From submitting a task to reading its success with `wait=`, one task at a time."""

from __future__ import annotations

import json
import time
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.contenders import POST
from benchmarks.load import Request, load
from benchmarks.results import Figures, Result
from benchmarks.rows.ordinary import ORDINARY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.session import Bench

TIMES = 20
PAUSE_SECONDS = 0.05


def run(bench: Bench) -> Iterator[Result]:
    """Measure an idle service, with a pause before each task; then without a pause."""
    bench.ours.clear()
    with bench.ours.worker():
        once(bench.ours.url)  # warm
        yield _measure(bench, "submit → SUCCESS by wait=, idle", POST, PAUSE_SECONDS, 25.0)
        yield _measure(bench, "the same, one after the other", POST, 0, 15.0)
        yield _measure(bench, "the same, ordinary tasks", ORDINARY, 0, 15.0)
    bench.ours.clear()


def _measure(bench: Bench, what: str, request: Request, pause: float, most: float) -> Result:
    ours = Figures("ours", "ms")
    result = Result("wait", what, ours, wanted=most, bound="most")
    for _ in bench.turns():
        times = []
        for _ in range(TIMES):
            time.sleep(pause)
            took, status = once(bench.ours.url, request)
            times.append(took)
            if status != "SUCCESS":
                result.faults.append(f"read {status}")
        ours.values.append(median(times) * 1000)
    return result


def once(url: str, request: Request = POST) -> tuple[float, str]:
    """Submit a task and wait for its end; return the time in seconds and the state read."""
    begin = time.monotonic()
    posted = load(url, lambda: request, count=1).bodies[0]
    question = Request(f"/tasks/{json.loads(posted)['task_id']}?wait=10")
    told = load(url, lambda: question, count=1).bodies[0]
    return time.monotonic() - begin, json.loads(told)["status"]
