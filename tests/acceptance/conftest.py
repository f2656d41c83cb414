"""Existing servers for the contract's tests: another broker, or other versions.

`TESTS_DATABASE_URL` and `TESTS_BROKER_URL` are URLs as in the settings, or `embedded` for
the servers of `tasks-api up`. The database's user must be allowed to create databases. The
broker is emptied. `TESTS_RESULT_BACKEND` (tests/support/stack.py) applies to every stack.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import kombu
import pytest
import sqlalchemy as sa

from tests.support.servers import RabbitMQ, missing
from tests.support.stack import ROOT
from tests.support.submissions import CLIENT
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

    from tests.support.servers import Postgres
    from tests.support.stack import Stack

    Database: TypeAlias = "Postgres | NamedDatabase"
    Broker: TypeAlias = "RabbitMQ | NamedBroker"

QUEUES = ("tasks", "short_tasks")

# Ends when its standard input is closed, that is, with the tests.
_SERVE = """
import os, sys
from pathlib import Path
from backend.local.lifetime import exclusive_data_dir, servers
from backend.settings import read
changes = {"database_url": "", "celery_broker_url": "", "data_dir": Path(sys.argv[1])}
found = read().model_copy(update=changes)
with exclusive_data_dir(found.data_dir), servers(found):
    print(os.environ["DATABASE_URL"], os.environ["CELERY_BROKER_URL"], "serve", flush=True)
    sys.stdin.read()
"""


class Embedded:
    """PostgreSQL and Valkey from wheels, started as by `tasks-api up`, in a separate process."""

    def __init__(self, folder: Path) -> None:
        self._log = folder.with_suffix(".log")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _SERVE, folder],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Self:
        words = eventually(self._serve, 60, "the embedded servers serve")
        self.database_url, self.broker_url = words
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=20)

    def _serve(self) -> list[str]:
        said = self._log.read_text()
        assert self._process.poll() is None, said
        return said.split()[-3:-1] if said.endswith("serve\n") else []


class NamedDatabase:
    """An existing PostgreSQL; the databases created there are dropped at the end."""

    def __init__(self, url: str) -> None:
        self._url = sa.make_url(url)
        self._made: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for name in self._made:
            self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    def start(self) -> None:
        """Do nothing: it runs."""

    def create_database(self) -> str:
        """Make an empty database with a random name and return its URL."""
        name = f"test_{secrets.token_hex(6)}"
        self._execute(f"CREATE DATABASE {name}")
        self._made.append(name)
        return self._url.set(database=name).render_as_string(hide_password=False)

    def _execute(self, sql: str) -> None:
        engine = sa.create_engine(self._url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with engine.connect() as connection:
            connection.execute(sa.text(sql))


class NamedBroker:
    """An existing broker, used by one test at a time."""

    def __init__(self, url: str) -> None:
        self.url = url

    def start(self) -> None:
        """Delete what others have left in it."""
        self.delete_all_queues()

    def delete_all_queues(self) -> None:
        """Delete the service's queues, or everything in a Redis or Valkey database."""
        with kombu.Connection(self.url, connect_timeout=10) as connection:
            channel: Any = connection.default_channel  # missing in the stubs
            if connection.transport.driver_type == "redis":
                channel.client.flushdb()
                return
            for queue in QUEUES:
                channel.queue_delete(queue)


@pytest.fixture(scope="module")
def client(service: Stack) -> Iterator[httpx.Client]:
    """Give a client of the file's own `service`."""
    with service.client() as made:
        yield made


@pytest.fixture(scope="session")
def closing_client() -> Iterator[None]:
    """Close the connections of the submissions' client at the end."""
    yield
    CLIENT.close()


@pytest.fixture(scope="session")
def embedded_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with Embedded(tmp_path_factory.mktemp("embedded") / "data") as servers:
        yield servers


@pytest.fixture(scope="session")
def contract_database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """Give the PostgreSQL that TESTS_DATABASE_URL names, or else the tests' own."""
    url = os.environ.get("TESTS_DATABASE_URL")
    if not url:
        yield request.getfixturevalue("postgres_server")
        return
    if url == "embedded":
        url = request.getfixturevalue("embedded_servers").database_url
    with NamedDatabase(url) as database:
        yield database


@pytest.fixture(scope="session")
def contract_broker(request: pytest.FixtureRequest) -> Broker:
    """Give the broker that TESTS_BROKER_URL names, or else the tests' own RabbitMQ.

    Without RabbitMQ, it is the embedded broker.
    """
    url = os.environ.get("TESTS_BROKER_URL") or ("embedded" if missing(RabbitMQ) else "")
    if not url:
        server: RabbitMQ = request.getfixturevalue("rabbitmq_server")
        return server
    if url == "embedded":
        url = request.getfixturevalue("embedded_servers").broker_url
    return NamedBroker(url)
