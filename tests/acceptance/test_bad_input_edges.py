"""Edge cases of input: just within limits, too large, beside good input; invalid settings."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from tests.support.stack import ROOT, Stack, serving
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from tests.support.servers import Postgres, RabbitMQ

JSON = {"Content-Type": "application/json"}
MEBIBYTE = 1024 * 1024


@pytest.fixture(scope="module")
def service(
    postgres_server: Postgres, rabbitmq_server: RabbitMQ, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """Give an API without a worker, so that stored tasks do not change."""
    folder = tmp_path_factory.mktemp("edges")
    with serving(postgres_server, rabbitmq_server, folder, "api --no-relay") as stack:
        yield stack


def content(value: object) -> bytes:
    return json.dumps({"content": value}).encode()


@pytest.mark.parametrize(
    "value", ["x" * 10_000, "ü" * 10_000, "\U0001f389" * 10_000, " a ", "'; DROP TABLE tasks; --"]
)
def test_values_just_within_the_limits_are_accepted(client: httpx.Client, value: str) -> None:
    assert client.post("/tasks/", json={"content": value}).status_code == 202
    message = client.post("/messages/", json={"content": value})
    assert (201, value) == (message.status_code, message.json()["content"])


def test_an_id_is_found_only_in_the_form_in_which_it_was_issued(
    service: Stack, client: httpx.Client
) -> None:
    task_id = service.post("/tasks/", {"content": "mine"})
    assert client.get(f"/tasks/{task_id}").status_code == 200
    for other in (task_id.upper(), task_id.replace("-", ""), f"{task_id}%20", f"%20{task_id}"):
        assert client.get(f"/tasks/{other}").status_code == 404


@pytest.mark.parametrize("host", ["[", "a:b:c", "x" * 5000, "", "%00"])
def test_an_unusual_host_header_causes_no_server_error(client: httpx.Client, host: str) -> None:
    answer = client.get("/", headers={"Host": host})
    assert answer.status_code in {200, 400}, answer.text


class Connection:
    """A plain TCP connection, to send what HTTP clients cannot send."""

    def __init__(self, service: Stack, head: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", service.port), timeout=10)
        self.socket.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def read_to_the_end(self) -> bytes:
        parts = []
        while part := self.socket.recv(65536):
            parts.append(part)
        return b"".join(parts)


def too_large(connection: Connection) -> None:
    answer = HTTPResponse(connection.socket)
    answer.begin()
    assert answer.status == 413
    assert answer.headers["Content-Type"] == "application/problem+json"
    body = json.loads(answer.read())
    assert body["status"] == 413
    assert "1 MiB" in body["detail"]


@pytest.mark.parametrize("path", ["/tasks/", "/messages/", "/tasks/slow", "/nothing"])
def test_a_body_declared_too_large_is_refused_before_it_is_sent(service: Stack, path: str) -> None:
    head = f"POST {path} HTTP/1.1\nHost: x\nContent-Type: application/json\nContent-Length: "
    with Connection(service, head + str(MEBIBYTE + 1)) as connection:
        too_large(connection)


def test_a_body_without_a_length_is_refused_once_it_is_too_large(service: Stack) -> None:
    head = "POST /tasks/ HTTP/1.1\nHost: x\nContent-Type: application/json\n"
    with Connection(service, head + "Transfer-Encoding: chunked") as connection:
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        for _ in range(16):
            connection.socket.sendall(chunk)
        connection.socket.sendall(b"1\r\nx\r\n")  # one byte over 1 MiB, without the last chunk
        too_large(connection)


def test_a_body_of_exactly_the_limit_is_read(client: httpx.Client) -> None:
    body = content("x" * (MEBIBYTE - len(content(""))))
    assert len(body) == MEBIBYTE
    answer = client.post("/tasks/", content=body, headers=JSON)
    assert answer.status_code == 422
    assert "10000" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("headers", "status"), [({}, 413), ({"Content-Encoding": "gzip"}, 415)], ids=str
)
def test_a_client_whose_large_body_is_refused_can_read_the_answer_and_continue(
    service: Stack, headers: dict[str, str], status: int
) -> None:
    body = b" " * 12 * MEBIBYTE  # more than the socket buffers hold
    for more in ({}, {"Connection": "close"}):
        connection = HTTPConnection("127.0.0.1", service.port, timeout=10)
        for sent in (body, iter([body])):  # the latter in chunks
            connection.request("POST", "/tasks/", sent, JSON | headers | more)
            answer = connection.getresponse()
            assert (answer.status, json.load(answer)["status"]) == (status, status)
            if more:
                connection.close()  # otherwise the connection can be used again
        connection.close()


def test_bad_requests_do_not_make_concurrent_good_ones_fail(service: Stack) -> None:
    before = service.scalar("SELECT count(*) FROM tasks")
    bodies = [content("good")] * 20 + [content("a\x00b"), content("\ud800")]
    ready = threading.Barrier(len(bodies))
    statuses: list[int] = []

    def post(body: bytes) -> None:
        with service.client() as client:
            client.get("/health")
            ready.wait(20)
            statuses.append(client.post("/tasks/", content=body, headers=JSON).status_code)

    threads = [threading.Thread(target=post, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [202] * 20 + [422] * 2
    assert int(str(before)) + 20 == service.scalar("SELECT count(*) FROM tasks")


@pytest.mark.parametrize(
    ("command", "name", "value"),
    [
        ("api", "DATABASE_URL", "mysql://root:secret@h/db"),
        ("api", "CELERY_BROKER_URL", "secret"),
        ("api", "CELERY_RESULT_BACKEND", "db+sqlite:///secret"),
        ("api", "API_PORT", "secret"),
        ("worker", "WORKER_CONCURRENCY", "secret"),
        ("relay", "LOG_LEVEL", "secret"),
        ("flower", "FLOWER_BASIC_AUTH", "secret"),
        ("migrate", "DATABASE_URL", "secret"),
        ("up", "API_WORKERS", "secret"),
    ],
)
def test_an_invalid_setting_stops_the_start_with_one_line(
    service: Stack, command: str, name: str, value: str
) -> None:
    started = subprocess.run(
        [sys.executable, "-m", "backend", command],
        cwd=ROOT,
        env={**service.settings(), name: value},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert started.returncode == 1
    assert started.stdout == ""
    assert re.fullmatch(rf"tasks-api: {name} must be .+\n", started.stderr)
    assert "secret" not in started.stderr


HANG_UPS = {
    "in a body of JSON": ("POST /tasks/", "application/json\nContent-Length: 1000", b'{"content"'),
    "in chunks of JSON": (
        "POST /messages/",
        "application/json\nTransfer-Encoding: chunked",
        b'b\r\n{"content":\r\n',
    ),
    "in a stream with a length": (
        "POST /tasks/batch",
        "application/x-ndjson\nContent-Length: 100000",
        b'{"arguments": {"content": "hung up"}}\n{"argu',
    ),
    "in chunks of a stream": (
        "POST /tasks/batch",
        "application/x-ndjson\nTransfer-Encoding: chunked",
        b'26\r\n{"arguments": {"content": "hung up"}}\n\r\n',
    ),
    "in a stream after a part was stored": (
        "POST /tasks/batch",
        "application/x-ndjson\nContent-Length: 1000000",
        b'{"arguments": {"content": "hung up"}}\n' * 1500,
    ),
    "while it waits for an end": ("GET /tasks/{id}?wait=2", "text/plain", b""),
}


@pytest.mark.parametrize(("request_line", "rest", "body"), HANG_UPS.values(), ids=HANG_UPS)
def test_a_client_that_disconnects_causes_no_logged_error(
    service: Stack, client: httpx.Client, request_line: str, rest: str, body: bytes
) -> None:
    task_id = service.post("/tasks/slow", None)
    first = request_line.format(id=task_id)
    count = "SELECT count(*) FROM tasks WHERE args ->> 'content' = 'hung up'"
    before = int(str(service.scalar(count)))
    with Connection(service, f"{first} HTTP/1.1\nHost: x\nContent-Type: {rest}") as connection:
        connection.socket.sendall(body)
        if body.count(b"\n") > 1000:
            stored = before + 1000
            eventually(
                lambda: service.scalar(count) == stored,
                10,
                "the first lines of the stream are stored",
            )
        else:
            # When this is answered, the server has read the bytes above.
            assert client.get("/health").status_code == 200
    eventually(lambda: _connections(service) <= 1, 10, "the server has closed its side")
    # As long as the disconnected client wanted to wait.
    assert client.get(f"/tasks/{task_id}?wait=2").status_code == 200
    assert "Traceback" not in service["api"].log


def test_a_client_that_sends_its_body_slowly_gets_an_answer(service: Stack) -> None:
    body = content("slowly")
    head = "POST /tasks/ HTTP/1.1\nHost: x\nContent-Type: application/json\nConnection: close\n"
    with Connection(service, f"{head}Content-Length: {len(body)}") as connection:
        for byte in body:
            connection.socket.sendall(bytes([byte]))
        assert connection.read_to_the_end().startswith(b"HTTP/1.1 202 ")


def _connections(service: Stack) -> int:
    """Return how many connections to the API are established."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    wanted = f":{service.port:04X}"
    return sum(line.split()[1].endswith(wanted) and line.split()[3] == "01" for line in lines)
