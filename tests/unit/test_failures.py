"""The text of an error for clients, and the delay before the next attempt."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from psycopg2.errors import NotNullViolation, UndefinedTable, UniqueViolation
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

from backend.errors import ArgumentsDoNotFit, TaskError
from backend.registry import registered
from backend.worker.failures import backoff, error_text

if TYPE_CHECKING:
    from backend.task import Task

SECRET = "SELECT secret FROM hosts"


def longest(spec: Task, attempt: int) -> float:
    """Return the longest of many pauses after an attempt, and check the shortest."""
    pauses = [backoff(spec, attempt) for _ in range(300)]
    assert 0.5 * max(pauses) <= min(pauses) <= 0.6 * max(pauses)
    return max(pauses)


def test_the_pause_between_attempts_doubles_up_to_five_minutes_and_is_random() -> None:
    usual = [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    slow = registered()["slow"]
    assert [longest(slow, attempt) for attempt in range(1, 11)] == pytest.approx(usual, rel=0.05)
    assert 150 <= backoff(slow, 30_000) <= 300


def test_a_task_declares_its_own_pauses() -> None:
    spec = replace(registered()["slow"], backoff=(1, 3, 20))
    assert [longest(spec, attempt) for attempt in range(1, 5)] == pytest.approx(
        [1, 3, 9, 20], rel=0.05
    )


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("too small"), "ValueError: too small"),
        (KeyError("url"), "KeyError: 'url'"),
        (SystemExit(2), "SystemExit: 2"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (TaskError("there is no such page"), "there is no such page"),
        (ArgumentsDoNotFit("The arguments do not fit"), "The arguments do not fit"),
        (ValueError(), "ValueError"),
        ("terminated", "terminated"),
        (WorkerLostError("Worker exited prematurely: signal 9 (SIGKILL) Job: 3."),
         "The process running the task was lost"),
        (TimeLimitExceeded(2), "The task took longer than its time limit of 2 seconds"),
        (TimeLimitExceeded(0.5, ""), "The task took longer than its time limit of 0.5 seconds"),
        (TimeLimitExceeded(2, "a.py, line 31"),
         "The task took longer than its time limit of 2 seconds; it was in a.py, line 31"),
        (OperationalError(SECRET, {}, Exception("connection to 10.0.0.1 failed")),
         "Database connection failed"),
        (IntegrityError(SECRET, {}, Exception("duplicate key")), "Database error: IntegrityError"),
        (IntegrityError(SECRET, {}, UniqueViolation(SECRET)), "Database error: IntegrityError"),
        (IntegrityError(SECRET, {}, NotNullViolation(SECRET)), "Database error: IntegrityError"),
        (ProgrammingError(SECRET, {}, Exception("no such")), "Database error: ProgrammingError"),
        (UndefinedTable(SECRET), "Database error: UndefinedTable"),
        (UniqueViolation(SECRET), "Database error: UniqueViolation"),
        (ValueError("a\x00b"), "ValueError: ab"),
        (ValueError("a\ud800b"), "ValueError: a?b"),
        (ValueError("x" * 3000), "ValueError: " + "x" * 1988),
        ("x" * 3000, "x" * 2000),
    ],
)  # fmt: skip
def test_an_error_is_described_without_queries_or_hosts(
    error: BaseException | str, told: str
) -> None:
    assert told == error_text(error)


@pytest.mark.parametrize("error", [ValueError("\x00"), ValueError(""), ValueError("  \n")])
def test_an_error_without_text_is_described_by_its_type(error: Exception) -> None:
    assert error_text(error) == "ValueError"


def test_an_error_of_several_lines_is_described_in_one_line() -> None:
    assert "\n" not in error_text(ValueError("first\nsecond"))
