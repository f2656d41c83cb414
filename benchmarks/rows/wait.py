"""From submitting a task to hearing of its success by `wait=`, on an idle service."""

from __future__ import annotations

import json
import time
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.contenders import POST
from benchmarks.load import Request, load
from benchmarks.results import Figures, Result

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.session import Bench

TIMES = 20
PAUSE_SECONDS = 0.05


def run(bench: Bench) -> Iterator[Result]:
    """One task at a time, with a pause before each."""
    ours = Figures("ours", "ms")
    result = Result("wait", "submit → SUCCESS by wait=, idle", ours, wanted=25.0, bound="most")
    bench.ours.clear()
    with bench.ours.worker():
        once(bench.ours.url)  # warm
        for _ in bench.turns():
            times = []
            for _ in range(TIMES):
                time.sleep(PAUSE_SECONDS)
                took, status = once(bench.ours.url)
                times.append(took)
                if status != "SUCCESS":
                    result.faults.append(f"was told {status}")
            ours.values.append(median(times) * 1000)
    bench.ours.clear()
    yield result


def once(url: str) -> tuple[float, str]:
    """Submit a task and wait for its end; return the seconds and the state that was read."""
    begin = time.monotonic()
    posted = load(url, lambda: POST, count=1).bodies[0]
    question = Request(f"/tasks/{json.loads(posted)['task_id']}?wait=10")
    told = load(url, lambda: question, count=1).bodies[0]
    return time.monotonic() - begin, json.loads(told)["status"]
