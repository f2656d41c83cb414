"""What a client may ask for when it submits a task."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from backend.options import Options


@pytest.mark.parametrize(
    "given",
    [
        {"priority": 10},
        {"priority": -1},
        {"priority": 1.5},
        {"countdown": -1},
        {"countdown": 366 * 86_400 + 1},
        {"countdown": "nan"},
        {"countdown": ""},
        {"expires": 0},
        {"expires": "inf"},
        {"time_limit": 0},
        {"time_limit": -1},
        {"max_attempts": 0},
        {"max_attempts": 1.5},
        {"tags": ["x" * 101]},
        {"tags": [str(number) for number in range(11)]},
        {"tags": [" "]},
        {"tags": ["a\nb"]},
        {"tags": ["a\0b"]},
        {"eta": "2030-01-31"},
        {"eta": "2030-01-31T08:00:00"},
        {"eta": "2030-02-31T08:00:00Z"},
        {"eta": "0001-01-01T00:00:00+23:00"},
        {"eta": 1893484800},
        {"eta": (datetime.now(UTC) + timedelta(days=400)).isoformat()},
        {"eta": "2026-01-01T00:00:00Z", "countdown": 1},
        {"unknown": 1},
    ],
)
def test_an_option_that_is_out_of_range_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Options.model_validate(given)


@pytest.mark.parametrize(
    "text",
    ["2026-01-31T08:00:00Z", "2026-01-31T09:00+01:00", "2026-01-31T07:30:00.000-0030"],
)
def test_an_eta_is_an_instant(text: str) -> None:
    assert Options.model_validate({"eta": text}).eta == datetime(2026, 1, 31, 8, tzinfo=UTC)


def test_equal_options_are_equal_however_they_are_written() -> None:
    one = {"priority": 4, "eta": "2026-01-31T09:00+01:00", "tags": ["b", "a", "b"], "countdown": 0}
    other = {"eta": "2026-01-31T08:00:00Z", "tags": ["a", "b"]}
    assert Options.model_validate(one).given() == Options.model_validate(other).given()


def test_options_with_only_defaults_are_false() -> None:
    assert not Options(priority=4)
    assert Options(priority=5)


def test_only_a_task_with_a_time_to_come_starts_later() -> None:
    now = datetime.now(UTC)
    assert Options(countdown=1).starts_later
    assert Options(eta=now + timedelta(minutes=1)).starts_later
    assert not Options(eta=now - timedelta(minutes=1)).starts_later
    assert not Options(priority=9).starts_later
