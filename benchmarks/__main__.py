"""`python -m benchmarks`: measure the service and its peers, and compare with required values."""

from __future__ import annotations

import argparse
import signal
import sys
import time
import traceback
from typing import TYPE_CHECKING

from benchmarks.machine import describe
from benchmarks.report import lines, save
from benchmarks.results import Figures, Result
from benchmarks.rows import (
    batch,
    behind,
    done,
    flood,
    growth,
    listing,
    memory,
    ordinary,
    peers,
    post,
    scheduled,
    state,
    wait,
)
from benchmarks.session import Bench
from tests.support.servers import Missing

if TYPE_CHECKING:
    from collections.abc import Sequence

ROWS = {
    "post": post.run,
    "batch": batch.run,
    "done": done.run,
    "ordinary": ordinary.run,
    "list": listing.run,
    "scheduled": scheduled.run,
    "wait": wait.run,
    "behind": behind.run,
    "memory": memory.run,
    "state": state.run,
    "growth": growth.run,
    "peers": peers.run,
    "memory-under-load": flood.run,
}
ASKED_FOR_ONLY = {"memory-under-load"}
TIME_LIMIT = 590  # seconds for a run, unless it has a row of ASKED_FOR_ONLY


class TimeUp(Exception):
    """TIME_LIMIT has passed."""


def main() -> int:
    """Run the rows and print the table; return 0 if no row has failed."""
    asked = _arguments()
    date = time.strftime("%Y-%m-%dT%H%M%S")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    results: list[Result] = []
    try:
        with Bench(asked.rounds, asked.seconds) as bench:
            machine = describe(bench)
            machine |= {"rounds": asked.rounds, "seconds": asked.seconds}
            print(f"{machine['processor']}, {machine['cores']} cores, {machine['system']}")
            _limit(asked.rows)
            _measure(bench, asked.rows, results)
    except Missing as missing:
        sys.exit(f"make bench: {missing}")
    print("\n" + "\n".join(lines(results)))
    print(f"\nwritten to {save(date, machine, results)}, with a plot for each line")
    return 0 if results and all(result.met is not False for result in results) else 1


def _measure(bench: Bench, names: Sequence[str], results: list[Result]) -> None:
    begin = time.monotonic()
    try:
        for name in names:
            print(f"{time.monotonic() - begin:5.0f} s  {name} …", flush=True)
            _run(bench, name, results)
    except (TimeUp, KeyboardInterrupt):
        late = "the time was up: this row and those after it were not measured"
        results.append(Result(name, name, Figures("ours", ""), faults=[late]))
    finally:
        signal.alarm(0)
    print(f"{time.monotonic() - begin:5.0f} s  end")


def _run(bench: Bench, name: str, results: list[Result]) -> None:
    """Run a row and add its results; an error in it does not stop the other rows."""
    try:
        results.extend(ROWS[name](bench))
    except TimeUp:
        raise
    except Exception:  # noqa: BLE001 - it is printed, and the run fails
        traceback.print_exc()
        results.append(Result(name, name, Figures("ours", ""), faults=["failed: see above"]))


def _limit(names: Sequence[str]) -> None:
    def end(*_: object) -> None:
        raise TimeUp

    if not ASKED_FOR_ONLY & set(names):
        signal.signal(signal.SIGALRM, end)
        signal.alarm(TIME_LIMIT)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    default = ",".join(name for name in ROWS if name not in ASKED_FOR_ONLY)
    parser.add_argument("--rows", default=default, help=f"names with commas: {', '.join(ROWS)}")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender")
    parser.add_argument("--seconds", type=float, default=2.5, help="length of a turn under load")
    asked = parser.parse_args()
    asked.rows = asked.rows.split(",")
    if unknown := set(asked.rows) - set(ROWS):
        parser.error(f"no rows of these names: {', '.join(sorted(unknown))}")
    return asked


if __name__ == "__main__":
    sys.exit(main())
