"""Compare the speed of a commit with that of the code as it is now.

Old and new code take turns on the same servers. A ratio above 1 means that the new code is faster.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
import traceback
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.checkout import NotComparable, check_out, copy_working_tree, needing_packages
from benchmarks.contenders import Ours
from benchmarks.pairs import WIDTH, comparison, missing, take_turns
from benchmarks.report import MET
from benchmarks.results import plain
from benchmarks.session import Bench
from benchmarks.turns import ROWS
from tests.support.servers import Missing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.results import Result

LINE = "{:12}  {:>5}  {:>7}  {:14}  {:>9}  {:>9}  {:>7}  {}"
HEAD = ("row", "pairs", "new/old", "95 % interval", "old", "new", "seconds")


def main() -> int:
    """Compare the requested rows; return 0 if all reach the bar."""
    asked = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    begin = time.monotonic()
    try:
        with ExitStack() as stack:
            code = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="compare-")))
            check_out(asked.base, code / "old")
            copy_working_tree(code / "new")
            bench = stack.enter_context(Bench(0, asked.seconds))
            with needing_packages(asked.base):
                old = _start(bench, "old", code)
            sides = [old, _start(bench, "new", code)]
            print(LINE.format(*HEAD, f"reaches {asked.bar}"), flush=True)
            results = [_compare(sides, name, asked) for name in asked.rows]
    except (Missing, NotComparable) as error:
        sys.exit(f"make compare: {error}")
    print(f"{time.monotonic() - begin:.0f} s in all")
    return 0 if all(result.met for result in results) else 1


def _start(bench: Bench, name: str, code: Path) -> Ours:
    """Start a side and return it. Raises RuntimeError if its processes run other code."""
    side = bench.add(Ours, name, code / name)
    with side.worker():
        side.confirm_code()
    return side


def _compare(sides: Sequence[Ours], name: str, asked: argparse.Namespace) -> Result:
    """Measure, print and return a row; an error in it does not stop the other rows."""
    begin = time.monotonic()
    result = comparison(name, asked.bar)
    try:
        while not result.faults and (pairs := missing(result, asked.pairs)):
            _measure(sides, result, pairs, asked.seconds)
    except Exception:  # noqa: BLE001 - it is printed, and the run fails
        traceback.print_exc()
        result.faults.append("failed: see above")
    _print(result, time.monotonic() - begin)
    return result


def _measure(sides: Sequence[Ours], result: Result, pairs: int, seconds: float) -> None:
    """Measure some pairs with fresh processes and empty tables."""
    for side in sides:
        side.restart()
        side.clear()
    with ExitStack() as stack:
        old, new = (stack.enter_context(ROWS[result.row](side, seconds, result)) for side in sides)
        take_turns(old, new, result, pairs)


def _print(result: Result, seconds: float) -> None:
    if result.judged and result.other is not None:
        low, high = result.interval
        figures = (
            f"{median(result.judged):.3f}",
            f"{low:.3f} to {high:.3f}",
            f"{plain(result.other.median)}/s",
            f"{plain(result.ours.median)}/s",
            f"{seconds:.0f}",
        )
        wide = "" if high - low <= WIDTH else " (the interval is wide)"
        met = MET[result.met] + wide
        print(LINE.format(result.row, len(result.judged), *figures, met), flush=True)
    for fault in result.faults:
        print(f"  {result.row}: FAULT: {fault}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make compare", description=__doc__)
    parser.add_argument("base", metavar="COMMIT", help="the old code: make compare BASE=COMMIT")
    rows = ",".join(ROWS)
    parser.add_argument("--rows", default=rows, help=f"names with commas; all are {rows}")
    parser.add_argument("--bar", type=float, default=0.97, help="the required ratio")
    parser.add_argument("--pairs", type=int, help="how many (default: until the ratio is certain)")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a turn under load")
    asked = parser.parse_args()
    asked.rows = asked.rows.split(",")
    if unknown := set(asked.rows) - set(ROWS):
        parser.error(f"no rows of these names: {', '.join(sorted(unknown))}")
    if not asked.base:
        parser.error("name the commit of the old code: make compare BASE=HEAD~1")
    if asked.pairs is not None and asked.pairs < 1:
        parser.error("--pairs must be 1 or more")
    return asked


if __name__ == "__main__":
    sys.exit(main())
