"""A migrated database of its own for each test, on the real PostgreSQL."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from backend.broker.app import app
from backend.db import connection as connections
from backend.db import session
from backend.settings import settings
from backend.worker import durations
from backend.worker.attempt.one import tasks_that_write
from tests.support.stack import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.servers import Postgres


@pytest.fixture(autouse=True)
def _no_earlier_tasks() -> None:
    """Forget how long the tasks of an earlier test took, and whether they wrote."""
    durations._seconds.clear()
    tasks_that_write.clear()


def migrate(url: str, project: Path = ROOT) -> subprocess.Popen[str]:
    """Start `tasks-api migrate`, of this project or of a copy, on a database."""
    environment = {
        **os.environ,
        "DATABASE_URL": url,
        "CELERY_BROKER_URL": "amqp://nobody@127.0.0.1:9//",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "backend", "migrate"],
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="session")
def template(postgres_server: Postgres) -> str:
    """Give the name of a migrated, empty database to copy."""
    url = postgres_server.create_database()
    process = migrate(url)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    return url.rpartition("/")[2]


@pytest.fixture
def database(postgres: Postgres, template: str) -> Iterator[sa.Engine]:
    """Give an engine on a new database with every table empty."""
    name = f"test_{secrets.token_hex(6)}"
    admin = sa.create_engine(postgres.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name} TEMPLATE {template}")
    made = sa.create_engine(
        postgres.url.rpartition("/")[0] + f"/{name}",
        connect_args={"options": "-c lock_timeout=5000 -c timezone=UTC"},
    )
    yield made
    made.dispose()
    with admin.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def service(database: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[sa.Engine]:
    """Make this process's engines use the test's database, as in a new process."""
    url = database.url.render_as_string(hide_password=False)
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("CELERY_BROKER_URL", "amqp://nobody:nothing@127.0.0.1:9//")
    monkeypatch.setattr(connections, "_checked", False)
    engines = (session.engine, session.autocommit, session.session_engine, session.lease_engine)
    caches = (settings, *engines)
    for cache in caches:
        cache.cache_clear()
    yield database
    for engine in engines:
        if engine.cache_info().currsize:
            engine().dispose()
    for cache in caches:
        cache.cache_clear()


@pytest.fixture
def replies(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Give a list of the replies: queue, correlation id, outcome."""
    sent: list[Any] = []
    monkeypatch.setattr(app.backend, "reply", sent.extend)
    return sent
