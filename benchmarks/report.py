"""The table, the file and the plots of a run."""

from __future__ import annotations

import json
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.plot import svg
from benchmarks.processes import ROOT
from benchmarks.results import plain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from benchmarks.results import Figures, Result

RESULTS = ROOT / "benchmarks" / "results"
HEAD = ("what", "required", "measured", "interval", "ours", "other", "rounds", "met")
MET = {True: "yes", False: "NO", None: "-"}


def lines(results: Sequence[Result]) -> list[str]:
    """Return the table, with notes and faults below it."""
    cells = [HEAD, *(_cells(result) for result in results)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    table.insert(1, "  ".join("-" * width for width in widths))
    remarks = [
        f"  {result.what}: {remark}"
        for result in results
        for remark in [*(f"FAULT: {fault}" for fault in result.faults), *result.notes]
    ]
    generator = max((result.generator_cpu for result in results), default=0)
    return [*table, "", *remarks, f"  the load generator took {generator:.0%} of a core at most"]


def save(date: str, machine: Mapping[str, object], results: Sequence[Result]) -> Path:
    """Write a JSON file, and a plot for each line of the table; return the JSON file's path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{date}.json"
    whole = {"machine": machine, "results": [result.as_json() for result in results]}
    path.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
    for number, result in enumerate(results, 1):
        if result.judged:
            plot = RESULTS / f"{date}-{number:02d}-{result.row}.svg"
            plot.write_text(svg(result))
    return path


def _cells(result: Result) -> tuple[str, ...]:
    if not result.judged:
        wanted = "" if result.wanted is None else _bound(result)
        return (result.what, wanted, "not measured", "", "", "", "0", MET[result.met])
    low, high = result.interval
    return (
        result.what,
        "" if result.wanted is None else _bound(result),
        _value(result, median(result.judged)),
        f"{_value(result, low)} to {_value(result, high)}",
        _figure(result.ours),
        "" if result.other is None else f"{_figure(result.other)} ({result.other.who})",
        str(len(result.judged)),
        MET[result.met],
    )


def _bound(result: Result) -> str:
    sign = "≥" if result.bound == "least" else "≤"
    return f"{sign} {_value(result, result.wanted or 0)}"


def _value(result: Result, value: float) -> str:
    if result.other is None:
        return f"{plain(value)} {result.ours.unit}"
    if value < 0.1:
        return f"1/{1 / value:.0f}"
    return f"{value:.2f} x"


def _figure(figures: Figures) -> str:
    return f"{plain(figures.median)} {figures.unit}"
