"""Plots a line of the table: a dot for each round, a tick at the median, a line at the bound."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

from benchmarks.results import plain

if TYPE_CHECKING:
    from benchmarks.results import Figures, Result

WIDTH, LEFT, RIGHT, TOP, ROW = 720, 150, 110, 60, 44
DOT, TICK, BOUND = "#3b7dd8", "#1b1b1b", "#c0392b"
LOG_FROM = 20  # the axis is logarithmic if highest / lowest value is larger


def svg(result: Result) -> str:
    """Return the plot of a result, as the text of an SVG file."""
    all_figures = [figures for figures in (result.ours, result.other) if figures] + result.also
    bound = _absolute_bound(result)
    values = [value for figures in all_figures for value in figures.values]
    scale = _Scale([*values, *([bound] if bound else [])])
    height = TOP + ROW * len(all_figures) + 20
    size = f'width="{WIDTH}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">',
        f'<rect {size} fill="white"/>',
        _text(16, 26, f"{result.what} ({result.ours.unit})", "start", 15),
    ]
    for number, figures in enumerate(all_figures):
        parts += _strip(figures, scale, TOP + ROW * number + ROW / 2)
    if bound:
        x, bottom = scale(bound), TOP + ROW
        parts.append(_line(x, TOP, x, bottom, BOUND, 2))
        sign = "at least" if result.bound == "least" else "at most"
        parts.append(_text(x, TOP - 6, f"{sign} {plain(bound)}", "middle", 12, BOUND))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _absolute_bound(result: Result) -> float:
    """Return the value that ours must reach, in its unit; 0 if there is no bound."""
    if result.wanted is None:
        return 0
    return result.wanted * (result.other.median if result.other else 1)


class _Scale:
    """Converts values to x coordinates, on an axis that begins at zero or is logarithmic."""

    def __init__(self, values: list[float]) -> None:
        self._high = max(values) or 1
        low = min(values)
        self._low = low / 1.5 if low > 0 and self._high / low > LOG_FROM else 0

    def __call__(self, value: float) -> float:
        if self._low:
            part = math.log(value / self._low) / math.log(self._high / self._low)
        else:
            part = value / self._high
        return LEFT + part * (WIDTH - LEFT - RIGHT)


def _strip(figures: Figures, scale: _Scale, y: float) -> list[str]:
    middle = scale(figures.median)
    return [
        _text(LEFT - 12, y + 5, figures.who, "end", 13),
        _line(LEFT, y, WIDTH - RIGHT, y, "#dddddd", 1),
        *(
            f'<circle cx="{scale(value):.1f}" cy="{y}" r="5" fill="{DOT}" fill-opacity="0.6"/>'
            for value in figures.values
        ),
        _line(middle, y - 12, middle, y + 12, TICK, 2),
        _text(WIDTH - RIGHT + 12, y + 5, plain(figures.median), "start", 13),
    ]


def _text(x: float, y: float, words: str, anchor: str, size: int, colour: str = TICK) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"'
        f' fill="{colour}">{escape(words)}</text>'
    )


def _line(x: float, y: float, to_x: float, to_y: float, colour: str, width: int) -> str:
    return (
        f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}"'
        f' stroke="{colour}" stroke-width="{width}"/>'
    )
