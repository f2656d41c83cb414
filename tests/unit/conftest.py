"""Unit tests need no server, but the Celery application wants settings at import."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from backend.settings import Settings, settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SERVERS = {
    "DATABASE_URL": "postgresql+psycopg2://user:hidden@db:5432/tasks",
    "CELERY_BROKER_URL": "amqp://user:hidden@broker:5672//",
}


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give the settings of servers that nobody connects to."""
    monkeypatch.setenv("DATABASE_URL", "postgresql+psycopg2://nobody@127.0.0.1:9/none")
    monkeypatch.setenv("CELERY_BROKER_URL", "amqp://nobody:nothing@127.0.0.1:9//")
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "rpc://")
    settings.cache_clear()
    yield
    settings.cache_clear()


@pytest.fixture
def only_our_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[tuple[Path, Path]]:
    """Give the two `.env` files, not yet there, and nothing of the machine's own settings."""
    before = dict(os.environ)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in SERVERS.items():
        monkeypatch.setenv(name, value)
    files = (tmp_path / "root.env", tmp_path / "backend.env")
    monkeypatch.setattr("backend.settings.ENV_FILES", files)
    settings.cache_clear()
    yield files
    settings.cache_clear()
    os.environ.clear()
    os.environ.update(before)
