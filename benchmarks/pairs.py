"""Turns of old and new code in pairs, until the median ratio of their speeds is certain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.results import Figures, Result

if TYPE_CHECKING:
    from collections.abc import Callable

LEAST_PAIRS, MOST_PAIRS = 30, 100
# The processes are restarted after so many pairs: two processes of the same code can differ in
# speed for as long as they live, and more pairs of the same two would not average that out.
BLOCK = 3
WIDTH = 0.06  # of the interval
CONFIDENCE = 0.95


def comparison(row: str, bar: float) -> Result:
    """Return a result without pairs. It judges new/old: above 1 means that the new is faster."""
    old, new = Figures("old", "/s"), Figures("new", "/s")
    return Result(row, row, new, old, wanted=bar, confidence=CONFIDENCE)


def missing(result: Result, exactly: int | None = None) -> int:
    """Return how many pairs to measure next: at most a block, 0 when there are enough.

    `exactly`: the number of pairs, instead of as many as the interval takes.
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
    """Measure so many pairs in the order old, new, new, old.

    Ends before at a fault: a turn that goes wrong adds it to the result.
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
