"""Unit tests need no server, but the Celery application wants settings at import."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backend.settings import settings

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give the settings of servers that nobody connects to."""
    monkeypatch.setenv("DATABASE_URL", "postgresql+psycopg2://nobody@127.0.0.1:9/none")
    monkeypatch.setenv("CELERY_BROKER_URL", "amqp://nobody:nothing@127.0.0.1:9//")
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "rpc://")
    settings.cache_clear()
    yield
    settings.cache_clear()
