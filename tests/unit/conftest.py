"""Unit tests need no server and no network."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from backend.settings import Settings, settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SERVERS = {
    "DATABASE_URL": "postgresql+psycopg2://user:hidden@db:5432/tasks",
    "CELERY_BROKER_URL": "amqp://user:hidden@broker:5672//",
}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test that connects to or listens on an address of a network."""

    def refusing(name: str) -> Callable[..., object]:
        allowed = getattr(socket.socket, name)

        def refuse(self: socket.socket, *arguments: object) -> object:
            if self.family in {socket.AF_INET, socket.AF_INET6}:
                # The service does not treat this error as an outage.
                pytest.fail(
                    f"{name}{arguments}: a test that needs a socket is in tests/integration"
                )
            return allowed(self, *arguments)

        return refuse

    for name in ("bind", "connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refusing(name))


@pytest.fixture
def only_our_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[tuple[Path, Path]]:
    """Give the paths of the two `.env` files, not yet written; hide the settings of the machine."""
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
