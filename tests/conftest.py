"""Fixtures: servers that are started once a run, a database and an empty broker for each test."""

from __future__ import annotations

import importlib
import os
import re
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import pytest
from celery.worker import state as celery_state

from backend.broker.outage import broker_outage
from backend.db.outage import postgresql_outage
from backend.settings import Settings, settings
from tests.support.servers import Missing, Postgres, RabbitMQ, Redis, missing
from tests.support.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def _import_the_worker() -> None:
    """Import all modules that read settings at import, with settings of servers that do not exist.

    backend/broker/app.py makes the Celery application; backend/worker registers the tasks.
    This happens before any test module is imported, so these can import at their top.
    Afterwards the environment is as before.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in Settings.model_fields:
            patch.delenv(name.upper(), raising=False)
        patch.setenv("DATABASE_URL", "postgresql+psycopg2://nobody@127.0.0.1:9/none")
        patch.setenv("CELERY_BROKER_URL", "amqp://nobody:nothing@127.0.0.1:9//")
        patch.setattr("backend.settings.ENV_FILES", ())
        settings.cache_clear()
        importlib.import_module("backend.worker")
    settings.cache_clear()


_import_the_worker()

Server = TypeVar("Server", Postgres, RabbitMQ, Redis)

SERVERS: dict[str, Callable[[], Postgres | RabbitMQ | Redis]] = {
    "postgres_with_clock_server": partial(Postgres, clock=True),
    "rabbitmq_server": RabbitMQ,
    "redis_server": Redis,
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--thorough",
        action="store_true",
        help="run every crash test three times with 2,000 messages, and long tasks at full length",
    )


@pytest.fixture
def thorough(pytestconfig: pytest.Config) -> bool:
    """Return whether --thorough was given."""
    return bool(pytestconfig.getoption("thorough"))


@pytest.fixture(autouse=True)
def _no_outage() -> None:
    """Forget outages that an earlier test has reported."""
    for outage in (broker_outage, postgresql_outage):
        outage._forget()


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set the settings to servers that do not exist; nothing connects to them."""
    monkeypatch.setenv("DATABASE_URL", "postgresql+psycopg2://nobody@127.0.0.1:9/none")
    monkeypatch.setenv("CELERY_BROKER_URL", "amqp://nobody:nothing@127.0.0.1:9//")
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "rpc://")
    settings.cache_clear()
    yield
    settings.cache_clear()


@pytest.fixture
def _forget_requests() -> Iterator[None]:
    """Remove the requests that a test has given to Celery."""
    yield
    for requests in (celery_state.reserved_requests, celery_state.active_requests):
        requests.clear()


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Run the tests one after another if they share a broker, as its queues have fixed names."""
    if os.environ.get("TESTS_BROKER_URL", "embedded") != "embedded":
        config.option.numprocesses = 0


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose servers are not installed; the reason names all of them."""
    fixtures = getattr(item, "fixturenames", ())
    absent = [missing(kind) for name, kind in SERVERS.items() if name in fixtures]
    if any(absent):
        pytest.skip("; ".join(filter(None, absent)))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """At the end, print which tests were skipped for missing programs, and how to run them."""
    yield
    wanted: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        wanted.update(set(re.findall(r"install Debian's ([\w.-]+) package", str(report.longrepr))))
    if not wanted:
        return
    terminalreporter.section("skipped tests")
    for package, tests in wanted.most_common():
        terminalreporter.line(f"{tests} tests: {package} is not installed")
    if missing(RabbitMQ):
        terminalreporter.line("The tests of the contract used the embedded Valkey as broker.")
    packages = " ".join(sorted(wanted))
    terminalreporter.line(f"To run them: apt-get install {packages}")
    terminalreporter.line("Or use .ci/run, which installs the servers and runs all of these tests.")


def _serve(kind: Callable[[], Server]) -> Iterator[Server]:
    try:
        server = kind()
    except Missing as missing:
        if os.environ.get("TESTS_REQUIRE_SERVERS"):
            raise
        pytest.skip(str(missing))
    with server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    yield from _serve(Postgres)


@pytest.fixture(scope="session")
def postgres_with_clock_server() -> Iterator[Postgres]:
    yield from _serve(partial(Postgres, clock=True))


@pytest.fixture(scope="session")
def rabbitmq_server() -> Iterator[RabbitMQ]:
    yield from _serve(RabbitMQ)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    yield from _serve(Redis)


@pytest.fixture
def postgres(postgres_server: Postgres) -> Postgres:
    """Give a running PostgreSQL; it is started again if an earlier test has stopped it."""
    postgres_server.start()
    return postgres_server


@pytest.fixture
def postgres_with_clock(postgres_with_clock_server: Postgres) -> Iterator[Postgres]:
    """Give a running PostgreSQL whose clock can be set; it shows the machine's time at first."""
    postgres_with_clock_server.start()
    postgres_with_clock_server.step_clock(0)
    yield postgres_with_clock_server
    postgres_with_clock_server.step_clock(0)


@pytest.fixture
def rabbitmq(rabbitmq_server: RabbitMQ) -> Iterator[RabbitMQ]:
    """Give a running RabbitMQ; the test's queues are deleted afterwards."""
    rabbitmq_server.start()
    yield rabbitmq_server
    rabbitmq_server.start()
    rabbitmq_server.delete_all_queues()


@pytest.fixture
def stack(postgres: Postgres, rabbitmq: RabbitMQ, tmp_path: Path) -> Iterator[Stack]:
    """Give the service with nothing started yet, on an empty database and broker."""
    with Stack(postgres.create_database(), rabbitmq.url, tmp_path) as made:
        yield made


@pytest.fixture
def odd_stack(postgres: Postgres, rabbitmq: RabbitMQ, tmp_path: Path) -> Iterator[Stack]:
    """Give the service with the tests' own misbehaving tasks."""
    url = postgres.create_database()
    with Stack(url, rabbitmq.url, tmp_path, module="tests.support.service") as made:
        yield made
