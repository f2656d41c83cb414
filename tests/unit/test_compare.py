"""`make compare`: pairs in turn, an interval that can be believed, and the code that is meant."""

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


def test_the_interval_of_the_median_takes_the_ranks_of_the_binomial_table() -> None:
    assert median_interval(range(1, 31), 0.95) == (10, 21)
    assert median_interval(range(1, 101), 0.95) == (40, 61)


def test_the_interval_of_few_values_is_all_of_them() -> None:
    assert median_interval([3, 1, 2], 0.95) == (1, 3)


def test_the_interval_holds_the_median_of_a_skewed_distribution_as_often_as_it_says() -> None:
    chance = random.Random(0)
    held = 0
    for _ in range(2_000):
        low, high = median_interval([chance.expovariate(1) for _ in range(30)], 0.95)
        held += low <= 0.6931 <= high
    assert 0.945 <= held / 2_000 <= 0.975  # 0.957 by the table


def test_a_new_code_that_is_faster_has_a_ratio_above_one() -> None:
    result = compared(lambda: 100, lambda: 110)
    assert median(result.judged) == pytest.approx(1.1)
    assert result.met


def test_a_new_code_that_is_slower_than_the_bar_does_not_reach_it() -> None:
    result = compared(lambda: 100, lambda: 96)
    assert result.met is False


def test_old_and_new_take_turns_in_an_order_that_alternates() -> None:
    order: list[str] = []

    def turn(name: str) -> Callable[[], float]:
        return lambda: order.append(name) or 1.0  # type: ignore[func-returns-value]  # appends

    take_turns(turn("old"), turn("new"), comparison("row", 0.97), 2)
    assert order == ["old", "new", "old", "new", "new", "old"]  # the first two warm


def test_a_row_takes_the_least_number_of_pairs_where_all_agree() -> None:
    assert len(compared(lambda: 100, lambda: 100).judged) == LEAST_PAIRS


def test_a_number_of_pairs_that_was_asked_for_is_kept() -> None:
    result = comparison("row", 0.97)
    assert missing(result, 3) == 3
    take_turns(lambda: 100, lambda: 100, result, 3)
    assert missing(result, 3) == 0


def test_a_noisy_row_goes_on_until_its_interval_is_narrow() -> None:
    result = compared(noisy(1, 0.05), noisy(2, 0.05))
    low, high = result.interval
    assert LEAST_PAIRS < len(result.judged) < MOST_PAIRS
    assert high - low <= WIDTH
    assert low < 1 < high


def test_a_row_that_stays_uncertain_ends() -> None:
    result = compared(noisy(1, 1), noisy(2, 1))
    assert len(result.judged) == MOST_PAIRS


def test_a_turn_that_goes_wrong_ends_the_row_and_fails_it() -> None:
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


def test_the_code_of_a_folder_is_imported_before_what_is_installed(tmp_path: Path) -> None:
    printed = import_backend(tmp_path, "")
    assert printed.strip() == str(tmp_path / "backend" / "__init__.py")


def test_a_package_that_a_commit_needs_and_that_is_not_installed_is_named(tmp_path: Path) -> None:
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
