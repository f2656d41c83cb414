"""Turns of old and new code in pairs, until the median ratio of their speeds is certain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.results import Figures, Result

if TYPE_CHECKING:
    from collections.abc import Callable

LEAST_PAIRS, MOST_PAIRS = 30, 100
WIDTH = 0.06  # of the interval
CONFIDENCE = 0.95


def comparison(row: str, bar: float) -> Result:
    """Return a result without pairs. It judges new/old: above 1 means that the new is faster."""
    old, new = Figures("old", "/s"), Figures("new", "/s")
    return Result(row, row, new, old, wanted=bar, confidence=CONFIDENCE)


def take_turns(
    old: Callable[[], float],
    new: Callable[[], float],
    result: Result,
    exactly: int | None = None,
) -> None:
    """Measure pairs in the order old, new, new, old until there are enough or one went wrong.

    `exactly`: the number of pairs, instead of as many as the interval takes. Whoever measures
    notes what went wrong in the result's faults.
    """
    assert result.other is not None
    turns = [(old, result.other.values), (new, result.ours.values)]
    for turn, _ in turns:
        turn()  # warm
    while not (result.faults or _enough(result, exactly)):
        for turn, speeds in turns:
            speeds.append(turn())
        turns.reverse()


def _enough(result: Result, exactly: int | None) -> bool:
    pairs = len(result.judged)
    if exactly is not None:
        return pairs >= exactly
    if pairs < LEAST_PAIRS or pairs % 2:  # as many in either order
        return False
    low, high = result.interval
    return high - low <= WIDTH or pairs >= MOST_PAIRS
