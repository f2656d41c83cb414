"""`make compare`: the order of runs, the confidence interval, and which code is imported."""

from __future__ import annotations

import random
import shutil
import sys
from statistics import median
from typing import TYPE_CHECKING

import pytest

from benchmarks.checkout import NotComparable, check_out, needing_packages
from benchmarks.pairs import LEAST_PAIRS, MOST_PAIRS, WIDTH, comparison, missing, take_turns
from benchmarks.processes import Processes
from benchmarks.results import median_interval

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.results import Result


def compared(old: Callable[[], float], new: Callable[[], float]) -> Result:
    result = comparison("row", 0.97)
    while pairs := missing(result):
        take_turns(old, new, result, pairs)
    return result


def noisy(seed: int, spread: float) -> Callable[[], float]:
    chance = random.Random(seed)
    return lambda: 100 * chance.lognormvariate(0, spread)


def test_the_interval_of_the_median_uses_the_ranks_of_the_binomial_table() -> None:
    assert median_interval(range(1, 31), 0.95) == (10, 21)
    assert median_interval(range(1, 101), 0.95) == (40, 61)


def test_the_interval_of_few_values_is_their_whole_range() -> None:
    assert median_interval([3, 1, 2], 0.95) == (1, 3)


def test_the_interval_covers_the_median_of_a_skewed_distribution_as_often_as_stated() -> None:
    chance = random.Random(0)
    held = 0
    for _ in range(2_000):
        low, high = median_interval([chance.expovariate(1) for _ in range(30)], 0.95)
        held += low <= 0.6931 <= high
    assert 0.945 <= held / 2_000 <= 0.975  # 0.957 in the table


def test_faster_new_code_has_a_ratio_above_one() -> None:
    result = compared(lambda: 100, lambda: 110)
    assert median(result.judged) == pytest.approx(1.1)
    assert result.met


def test_new_code_slower_than_the_required_ratio_fails() -> None:
    result = compared(lambda: 100, lambda: 96)
    assert result.met is False


def test_old_and_new_code_run_in_alternating_order() -> None:
    order: list[str] = []

    def turn(name: str) -> Callable[[], float]:
        return lambda: order.append(name) or 1.0  # type: ignore[func-returns-value]  # appends

    take_turns(turn("old"), turn("new"), comparison("row", 0.97), 2)
    assert order == ["old", "new", "old", "new", "new", "old"]  # the first two are warm-up


def test_a_row_stops_at_the_minimum_of_pairs_if_all_agree() -> None:
    assert len(compared(lambda: 100, lambda: 100).judged) == LEAST_PAIRS


def test_a_requested_number_of_pairs_is_used() -> None:
    result = comparison("row", 0.97)
    assert missing(result, 3) == 3
    take_turns(lambda: 100, lambda: 100, result, 3)
    assert missing(result, 3) == 0


def test_a_noisy_row_continues_until_its_interval_is_narrow() -> None:
    result = compared(noisy(1, 0.05), noisy(2, 0.05))
    low, high = result.interval
    assert LEAST_PAIRS < len(result.judged) < MOST_PAIRS
    assert high - low <= WIDTH
    assert low < 1 < high


def test_a_row_that_stays_uncertain_ends_at_the_maximum_of_pairs() -> None:
    result = compared(noisy(1, 1), noisy(2, 1))
    assert len(result.judged) == MOST_PAIRS


def test_a_failed_run_ends_its_row_as_failed() -> None:
    result = comparison("row", 0.97)

    def wrong() -> float:
        result.faults.append("refused")
        return 100

    take_turns(lambda: 100, wrong, result, 2)
    assert result.judged == []
    assert result.met is False


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_commit_that_does_not_exist_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(NotComparable, match=r"^no-such-commit is no commit here"):
        check_out("no-such-commit", tmp_path)


def test_the_code_of_a_folder_is_imported_before_installed_packages(tmp_path: Path) -> None:
    printed = import_backend(tmp_path, "")
    assert printed.strip() == str(tmp_path / "backend" / "__init__.py")


def test_a_missing_package_that_a_commit_needs_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(NotComparable, match=r"^abc needs no_such_package, which"),
        needing_packages("abc"),
    ):
        import_backend(tmp_path, "import no_such_package")


def import_backend(folder: Path, code: str) -> str:
    (folder / "backend").mkdir()
    (folder / "backend" / "__init__.py").write_text(code)
    (folder / "logs").mkdir()
    processes = Processes(folder / "logs", folder)
    processes.start("import", [sys.executable, "-c", "import backend; print(backend.__file__)"], {})
    return processes.wait_for_end("import")
