"""Run 1,000 tasks that wait a second each: in 200 threads, and in 200 processes.

`python -m benchmarks.threads`
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import httpx

from benchmarks.machine import describe
from benchmarks.session import Bench
from tests.support.servers import Missing
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.contenders import Ours

TASKS = 1000
AT_ONCE = 200
BATCH = 500
PATIENCE = 900.0
LINE = "{:16}  {:>8}  {:>9}  {:>10}"
WORKERS: Mapping[str, Mapping[str, str]] = {
    "200 threads": {"WORKER_POOL": "threads", "WORKER_CONCURRENCY": str(AT_ONCE)},
    "200 processes": {"WORKER_CONCURRENCY": str(AT_ONCE)},
}


def main() -> int:
    """Measure each kind of worker and print a line for it. Returns 0."""
    try:
        with Bench(0, 0) as bench:
            machine = describe(bench)
            print(f"{machine['processor']}, {machine['cores']} cores, {machine['system']}")
            print(LINE.format("worker", "seconds", "tasks/s", "memory MiB"), flush=True)
            for name, settings in WORKERS.items():
                _measure(bench.ours, name, settings)
    except Missing as missing:
        sys.exit(f"benchmarks.threads: {missing}")
    return 0


def _measure(ours: Ours, name: str, settings: Mapping[str, str]) -> None:
    ours.clear()
    before = dict(ours.environment)
    ours.environment |= {"WORKER_QUEUES": "tasks", **settings}
    try:
        with ours.worker():
            began = time.monotonic()
            items = [{"name": "slow", "arguments": {"duration": 1}}] * BATCH
            for _ in range(TASKS // BATCH):
                httpx.post(f"{ours.url}/tasks/batch", json=items, timeout=60).raise_for_status()
            eventually(lambda: ours.ended() >= TASKS // 2, PATIENCE, "half of them have ended")
            memory = sum(
                mib for each, mib in ours.processes.memory().items() if each.startswith("worker")
            )
            eventually(lambda: ours.ended() == TASKS, PATIENCE, "all have ended")
            seconds = time.monotonic() - began
    finally:
        ours.environment.clear()
        ours.environment.update(before)
    print(
        LINE.format(name, f"{seconds:.1f}", f"{TASKS / seconds:.1f}", f"{memory:.0f}"), flush=True
    )


if __name__ == "__main__":
    sys.exit(main())
