"""Post at a fixed rate while a million old tasks are purged: `python -m benchmarks.purge`.

First `tasks-api prune` purges them, then the service does (RETENTION_DAYS).
"""

from __future__ import annotations

import signal
import sys
from statistics import median, quantiles
from typing import TYPE_CHECKING

from benchmarks.contenders import POST, PYTHON, Ours
from benchmarks.load import Load, load_at_rate
from benchmarks.machine import describe
from benchmarks.session import Bench
from benchmarks.tables import fill, task_id
from tests.support.servers import Missing

if TYPE_CHECKING:
    from collections.abc import Callable

OLD = 1_000_000
DAYS = 30
RATE = 500
PHASE_SECONDS = 20.0  # before and after each purge
LOOK_SECONDS = 2.0
PATIENCE = 600.0
LINE = "{:28}  {:>8}  {:>8}  {:>10}  {:>10}  {:>10}  {}"
HEAD = ("posting", "seconds", "rate", "median ms", "p99 ms", "longest ms", "")


class Keeping(Ours):
    """The service with RETENTION_DAYS."""

    name = "ours-keeping"

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)
        self.environment["RETENTION_DAYS"] = str(DAYS)


def main() -> int:
    """Measure both purges and print a line for each phase.

    Returns 0 if all old tasks were purged and no post was refused.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    try:
        with Bench(0, 0) as bench:
            machine = describe(bench)
            print(f"{machine['processor']}, {machine['cores']} cores, {machine['system']}")
            ours = bench.add(Keeping)
            with ours.worker():
                return _measure(ours)
    except Missing as missing:
        sys.exit(f"benchmarks.purge: {missing}")


def _measure(ours: Ours) -> int:
    good = True
    print(LINE.format(*HEAD), flush=True)
    for what, start in (("prune", _start_prune), ("RETENTION_DAYS", _start_pass)):
        ours.clear()
        fill(ours.database, OLD, DAYS)
        good &= _report(f"before {what}", [_post(ours)])
        ended = start(ours)
        during = [_post(ours, LOOK_SECONDS)]
        while not ended() and len(during) * LOOK_SECONDS < PATIENCE:
            during.append(_post(ours, LOOK_SECONDS))
        left = ours.database.number("SELECT count(*) FROM tasks WHERE id <= %s", task_id(OLD))
        good &= _report(f"during {what}", during, f"{OLD - left:,} purged") and not left
        good &= _report(f"after {what}", [_post(ours)])
    return 0 if good else 1


def _start_prune(ours: Ours) -> Callable[[], bool]:
    """Start `tasks-api prune`; return a function that says whether it has ended."""
    argv = [PYTHON, "-m", "backend", "prune", "--older-than", f"{DAYS}d"]
    ours.processes.start("prune", argv, ours.environment)
    return lambda: ours.processes.ended("prune")


def _start_pass(ours: Ours) -> Callable[[], bool]:
    """Make a pass of the service due; return a function that says whether it has ended."""
    ours.database.query("UPDATE purge SET due_at = now()")
    next_pass = "SELECT count(*) FROM purge WHERE due_at > now() + interval '30 min'"
    return lambda: ours.database.number(next_pass) == 1


def _post(ours: Ours, seconds: float = PHASE_SECONDS) -> Load:
    return load_at_rate(ours.url, lambda: POST, RATE, seconds)


def _report(what: str, loads: list[Load], note: str = "") -> bool:
    """Print a line about the answers; return whether all were 2xx."""
    seconds = sum(each.seconds for each in loads)
    latencies = [1000 * latency for each in loads for latency in each.latencies]
    bad = [each.bad for each in loads if each.bad]
    figures = [len(latencies) / seconds, median(latencies), quantiles(latencies, n=100)[98]]
    figures.append(max(latencies))
    line = [f"{seconds:.0f}", *(f"{figure:.1f}" for figure in figures)]
    print(LINE.format(what, *line, f"{note} {bad or ''}"), flush=True)
    return not bad


if __name__ == "__main__":
    sys.exit(main())
