"""Addresses of brokers: passwords with any character, and TLS that verifies the certificate."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import quote

import httpx
import pytest
import redis

from tests.support.certificates import Certificate
from tests.support.proxy import Proxy
from tests.support.servers import RabbitMQ, Redis, missing
from tests.support.stack import ROOT, Stack
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.servers import Postgres

MINUTE = 60.0


@dataclass
class Broker:
    """A broker behind TLS, and its certificate."""

    url: str
    certificate: Certificate


@contextmanager
def serving(kind: str, certificate: Certificate, rabbitmq: RabbitMQ | None) -> Iterator[Broker]:
    if rabbitmq is None:
        with Redis(certificate=certificate) as server:
            yield Broker(server.url, certificate)
    else:
        with Proxy("127.0.0.1", rabbitmq.port, certificate.context()) as proxy:
            yield Broker(f"{kind}://guest:guest@127.0.0.1:{proxy.port}//", certificate)


@pytest.fixture(params=["rediss", "amqps"])
def kind(request: pytest.FixtureRequest) -> str:
    absent = missing(RabbitMQ if request.param == "amqps" else Redis)
    if absent:
        pytest.skip(absent)
    name: str = request.param
    return name


@pytest.fixture
def rabbitmq_or_none(kind: str, request: pytest.FixtureRequest) -> RabbitMQ | None:
    return request.getfixturevalue("rabbitmq") if kind == "amqps" else None


@pytest.fixture
def broker(kind: str, rabbitmq_or_none: RabbitMQ | None, tmp_path: Path) -> Iterator[Broker]:
    with serving(kind, Certificate(tmp_path), rabbitmq_or_none) as made:
        yield made


def connects(url: str, **environment: str) -> str:
    """Connect to a broker as the processes do; return "" or the error."""
    code = "from backend.broker.connection import *\ntry: connect(timeout=5).close()\n"
    code += "except Exception as error: print(type(error).__name__, error)"
    environment = {
        **os.environ,
        "DATABASE_URL": "postgresql+psycopg2://nobody@127.0.0.1:9/none",
        "CELERY_BROKER_URL": url,
        **environment,
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.strip()


def test_a_certificate_is_verified_unless_the_address_says_otherwise(broker: Broker) -> None:
    trusted = str(broker.certificate.file)
    assert connects(broker.url) != ""
    assert connects(broker.url, SSL_CERT_FILE=trusted) == ""
    assert connects(f"{broker.url}?ssl_ca_certs={trusted}") == ""
    assert connects(f"{broker.url}?ssl_cert_reqs=none") == ""


def test_a_certificate_of_another_host_is_refused(
    kind: str, rabbitmq_or_none: RabbitMQ | None, tmp_path: Path
) -> None:
    certificate = Certificate(tmp_path, "DNS:another.example")
    with serving(kind, certificate, rabbitmq_or_none) as broker:
        assert connects(broker.url, SSL_CERT_FILE=str(certificate.file)) != ""


def test_tasks_run_and_results_are_copied_over_tls(
    broker: Broker, kind: str, postgres: Postgres, tmp_path: Path
) -> None:
    environment = {"SSL_CERT_FILE": str(broker.certificate.file)}
    if kind == "rediss":
        environment["CELERY_RESULT_BACKEND"] = broker.url
    with Stack(postgres.create_database(), broker.url, tmp_path, environment) as stack:
        stack.start("api")
        stack.start("worker")
        for path, body in (("/tasks/slow?duration=0", None), ("/tasks/", {"content": "Hello"})):
            task_id = stack.post(path, body)
            assert stack.state(task_id, wait=MINUTE)["status"] == "SUCCESS"
            if kind == "rediss":
                client = redis.Redis.from_url(broker.url, ssl_ca_certs=environment["SSL_CERT_FILE"])
                ask = partial(client.exists, f"celery-task-meta-{task_id}")
                eventually(ask, 5, "Redis has the copy of the result")
                client.close()
        assert "was dropped" not in stack["worker"].log


def test_a_broker_with_an_untrusted_certificate_is_reported_as_unavailable(
    broker: Broker, postgres: Postgres, tmp_path: Path
) -> None:
    with Stack(postgres.create_database(), broker.url, tmp_path) as stack:
        api = stack.start("api")
        worker = stack.launch("worker")
        stack.post("/tasks/", {"content": "Hello"})
        eventually(
            lambda: "certificate" in worker.log.lower(), 20, "the worker has logged the reason"
        )
        degraded = httpx.get(f"{stack.url}/health/ready").json()["degraded"]
        assert any("broker cannot be reached" in fault for fault in degraded)
        assert "Traceback" not in api.log + worker.log
        assert stack.unfinished() == 1


# Each character with a meaning in an address.
PASSWORD = "secret#/?@:%;&=+ [ü]%41"


@pytest.mark.parametrize("encoded", [True, False], ids=["encoded", "as it is"])
def test_any_rabbitmq_password_works_in_the_url(rabbitmq: RabbitMQ, *, encoded: bool) -> None:
    # Without the characters that must be encoded.
    password = PASSWORD if encoded else "secret:%&=+ ü!$'()*,~"
    name = rabbitmq.add_user(password)
    written = quote(password, safe="") if encoded else password
    assert connects(f"amqp://{name}:{written}@127.0.0.1:{rabbitmq.port}//") == ""
    said = connects(f"amqp://{name}:{written}0@127.0.0.1:{rabbitmq.port}//")
    assert said != ""
    assert "secret" not in said


def test_any_redis_password_works_in_the_url() -> None:
    if absent := missing(Redis):
        pytest.skip(absent)
    with Redis({"requirepass": PASSWORD}) as server:
        address = server.url.removeprefix("redis://")
        assert connects(f"redis://:{quote(PASSWORD, safe='')}@{address}") == ""
        said = connects(f"redis://:{quote(PASSWORD + '0', safe='')}@{address}")
        assert said != ""
        assert "secret" not in said
