"""The results of a row: a figure for each round and contender, and the required value."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from math import comb
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

CONFIDENCE = 0.93  # of the range from the lowest to the highest of five rounds


def plain(value: float) -> str:
    """Return a figure as text: a whole number from 100 on, else three significant digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def median_interval(values: Sequence[float], confidence: float) -> tuple[float, float]:
    """Return the confidence interval of the median, by order statistics, for any distribution.

    Returns the lowest and the highest value if there are too few values for the confidence.
    """
    ranked = sorted(values)
    n, cut, outside = len(ranked), 0, 0.0
    while cut < n // 2:
        outside += 2 * comb(n, cut) / 2**n
        if 1 - outside < confidence:
            break
        cut += 1
    cut = max(cut, 1)
    return ranked[cut - 1], ranked[-cut]


@dataclass
class Figures:
    """One contender's figure in each round."""

    who: str
    unit: str
    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Return the median of the rounds."""
        return median(self.values)


@dataclass
class Result:
    """A line of the table.

    In each round the ratio of `ours` to `other` is taken, or `ours` itself if there is no other.
    The median of the rounds is judged: it must be at least, or at most, `wanted` (see `bound`).
    `wanted` is None if there is no required value.
    """

    row: str
    what: str
    ours: Figures
    other: Figures | None = None
    wanted: float | None = None
    bound: Literal["least", "most"] = "least"
    also: list[Figures] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    generator_cpu: float = 0  # the load generator's share of one core, the largest of all rounds
    confidence: float = CONFIDENCE

    @property
    def judged(self) -> list[float]:
        """Return the judged value of each round that both contenders have completed."""
        if self.other is None:
            return self.ours.values
        pairs = zip(self.ours.values, self.other.values, strict=False)
        return [mine / theirs for mine, theirs in pairs]

    @property
    def interval(self) -> tuple[float, float]:
        """Return the confidence interval of the median of the judged values."""
        return median_interval(self.judged, self.confidence)

    @property
    def met(self) -> bool | None:
        """Return whether the required value was reached without faults.

        Returns None if there is no fault, but also no required value or no figure.
        """
        if self.faults:
            return False
        if self.wanted is None or not self.judged:
            return None
        value = median(self.judged)
        return value >= self.wanted if self.bound == "least" else value <= self.wanted

    def as_json(self) -> dict[str, Any]:
        """Return everything, for the JSON file."""
        judged = self.judged
        return {
            **asdict(self),
            "ratios": judged,
            "median": median(judged) if judged else None,
            "interval": self.interval if judged else None,
            "met": self.met,
        }
