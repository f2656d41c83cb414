"""What a row measured: a figure a round for each contender, and what is asked of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from math import comb
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

CONFIDENCE = 0.93  # what the lowest and the highest of five rounds have


def plain(value: float) -> str:
    """Write a figure as precisely as it was measured."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def median_interval(values: Sequence[float], confidence: float) -> tuple[float, float]:
    """Return where the median is with this confidence, for any distribution: order statistics.

    The lowest and the highest value where there are too few values for the confidence.
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
        """The figure to print."""
        return median(self.values)


@dataclass
class Result:
    """A line of the table.

    What is judged is the median of the rounds' ratios of `ours` to `other`, or of `ours` itself
    where there is no other. `wanted` is the bound, `bound` its side; None: for comparison only.
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
        """A value for each round in which all had their turn."""
        if self.other is None:
            return self.ours.values
        pairs = zip(self.ours.values, self.other.values, strict=False)
        return [mine / theirs for mine, theirs in pairs]

    @property
    def interval(self) -> tuple[float, float]:
        """Where the median of what is judged is with this confidence."""
        return median_interval(self.judged, self.confidence)

    @property
    def met(self) -> bool | None:
        """Whether the bound holds and nothing was lost or postponed; None without a bound."""
        if self.faults:
            return False
        if self.wanted is None or not self.judged:
            return None
        value = median(self.judged)
        return value >= self.wanted if self.bound == "least" else value <= self.wanted

    def as_json(self) -> dict[str, Any]:
        """Everything, for the file."""
        judged = self.judged
        return {
            **asdict(self),
            "ratios": judged,
            "median": median(judged) if judged else None,
            "interval": self.interval if judged else None,
            "met": self.met,
        }
