"""Turns of old and new code in pairs, until the median ratio of their speeds is certain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.results import Figures, Result

if TYPE_CHECKING:
    from collections.abc import Callable

LEAST_PAIRS, MOST_PAIRS = 30, 100
# The processes are restarted after this many pairs: two processes with the same code can differ in
# speed until they end, and more pairs of the same two processes would not average that out.
BLOCK = 3
WIDTH = 0.06  # of the interval
CONFIDENCE = 0.95


def comparison(row: str, bar: float) -> Result:
    """Return a result without pairs. It judges new/old: above 1 means that the new code is faster.

    `bar`: the required ratio.
    """
    old, new = Figures("old", "/s"), Figures("new", "/s")
    return Result(row, row, new, old, wanted=bar, confidence=CONFIDENCE)


def missing(result: Result, exactly: int | None = None) -> int:
    """Return how many pairs to measure next: at most BLOCK, 0 when there are enough.

    `exactly`: the total number of pairs. Without it, the width of the interval decides.
    """
    pairs = len(result.judged)
    if exactly is not None:
        return min(BLOCK, exactly - pairs)
    if pairs >= LEAST_PAIRS:
        low, high = result.interval
        if high - low <= WIDTH:
            return 0
    return min(BLOCK, MOST_PAIRS - pairs)


def take_turns(
    old: Callable[[], float], new: Callable[[], float], result: Result, pairs: int
) -> None:
    """Measure `pairs` pairs in the order old, new, new, old, and add their speeds to the result.

    Stops early after a fault: a turn that fails adds a fault to the result.
    """
    assert result.other is not None
    turns = [(old, result.other.values), (new, result.ours.values)]
    for turn, _ in turns:
        turn()  # warm
    for _ in range(pairs):
        if result.faults:
            return
        for turn, speeds in turns:
            speeds.append(turn())
        turns.reverse()
