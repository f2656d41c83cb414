"""The age that `tasks-api prune` takes, and RETENTION_DAYS."""

from __future__ import annotations

from datetime import timedelta

import pytest

from backend.maintenance.purge import parse_age
from backend.settings import settings


@pytest.mark.parametrize(
    ("text", "age"),
    [
        ("30d", timedelta(days=30)),
        ("1h", timedelta(hours=1)),
        ("36h", timedelta(days=1.5)),
        ("3650d", timedelta(days=3650)),
    ],
)
def test_an_age_is_days_or_hours(text: str, age: timedelta) -> None:
    assert parse_age(text) == age


@pytest.mark.parametrize(
    "text",
    [
        "",
        "30",
        "d",
        "0d",
        "0h",
        "-1d",
        "1.5d",
        "30 d",
        "30D",
        "1w",
        "3651d",
        "99999999d",
        "٣d",
        "1d\n",
    ],
)
def test_any_other_text_is_no_age(text: str) -> None:
    with pytest.raises(ValueError, match="must be days or hours, such as 30d or 12h"):
        parse_age(text)


@pytest.mark.usefixtures("only_our_environment")
def test_tasks_are_kept_unless_retention_days_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings().retention_days is None
    settings.cache_clear()
    monkeypatch.setenv("RETENTION_DAYS", "1")
    assert settings().retention_days == 1
