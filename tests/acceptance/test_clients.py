"""Unusual clients: upgrades to HTTP/2, HTTP/1.0, unusual headers, early disconnects."""

from __future__ import annotations

import json
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psycopg2
import pytest

from tests.support.stack import Stack, serving
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.servers import Postgres, RabbitMQ

LINE = b'{"name": "insert_message", "arguments": {"content": "Hello"}}\n'
BODY = b'{"content": "Hello World"}'
# As sent by `curl --http2` and by Java's HttpClient, whose default is HTTP/2.
UPGRADE = """Connection: Upgrade, HTTP2-Settings
HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA
Upgrade: h2c
"""


@pytest.fixture(scope="module")
def service(
    postgres_server: Postgres, rabbitmq_server: RabbitMQ, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """Give an API without a worker, so that stored tasks do not change."""
    folder = tmp_path_factory.mktemp("clients")
    with serving(postgres_server, rabbitmq_server, folder, "api --no-relay") as stack:
        yield stack


def head(
    path: str,
    length: int | None,
    kind: str = "application/json",
    more: str = "",
    version: str = "1.1",
) -> bytes:
    """Return the head of a POST."""
    size = f"Content-Length: {length}\n" if length is not None else "Transfer-Encoding: chunked\n"
    lines = f"POST {path} HTTP/{version}\nHost: localhost\nContent-Type: {kind}\n{size}{more}\n"
    return lines.replace("\n", "\r\n").encode()


def talk(service: Stack, *pieces: bytes, pause: float = 0.0) -> bytes:
    """Send pieces over TCP; return what is received until half a second of silence."""
    answer = b""
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause)  # so that each piece arrives separately
        while True:
            try:
                part = connection.recv(65536)
            except TimeoutError:
                return answer
            if not part:
                return answer
            answer += part
            connection.settimeout(0.5)


def accepted(answer: bytes) -> list[bytes]:
    """Return the bodies of the answers, all of which are 202."""
    answers = answer.split(b"HTTP/1.1 ")[1:]
    assert [each[:3] for each in answers] == [b"202"] * len(answers), answer
    return [each.partition(b"\r\n\r\n")[2] for each in answers]


REQUEST = head("/tasks/", len(BODY), more=UPGRADE) + BODY
CHUNKED = head("/tasks/", None, more=UPGRADE) + b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
LINES = head("/tasks/batch", 3 * len(LINE), "application/x-ndjson", UPGRADE) + 3 * LINE
SPLIT = REQUEST.index(b"\r\n\r\n")


@pytest.mark.parametrize(
    "pieces",
    [
        [REQUEST],
        [REQUEST[: SPLIT + 4], BODY],
        [REQUEST[:SPLIT], REQUEST[SPLIT : SPLIT + 10], REQUEST[SPLIT + 10 :]],
        [bytes([byte]) for byte in REQUEST],
        [CHUNKED],
        [CHUNKED[:-20], CHUNKED[-20:]],
    ],
    ids=["whole", "body later", "in three", "byte by byte", "chunked", "chunked in two"],
)
def test_a_request_to_upgrade_to_http_2_is_answered_in_http_1(
    service: Stack, pieces: list[bytes]
) -> None:
    (body,) = accepted(talk(service, *pieces, pause=0.005))
    task_id = json.loads(body)["task_id"]
    found = service.scalar("SELECT args FROM tasks WHERE id = %s", task_id)
    assert found == {"content": "Hello World"}


def test_an_ndjson_upload_that_asks_for_http_2_is_accepted_completely(service: Stack) -> None:
    (body,) = accepted(talk(service, LINES))
    answers = [json.loads(line) for line in body.splitlines()]
    assert [answer["status"] for answer in answers] == ["PENDING"] * 3


def test_requests_after_one_that_asks_for_http_2_are_answered_too(service: Stack) -> None:
    plain = head("/tasks/", len(BODY)) + BODY
    assert len(accepted(talk(service, REQUEST + plain + REQUEST))) == 3


def test_a_web_socket_request_is_answered_with_404(service: Stack) -> None:
    asked = "GET /ws HTTP/1.1\nHost: x\nConnection: keep-alive, Upgrade\nUpgrade: websocket\n\n"
    answer = talk(service, asked.replace("\n", "\r\n").encode())
    assert answer.startswith(b"HTTP/1.1 404")


def test_a_proxy_request_is_refused_and_the_api_keeps_working(service: Stack) -> None:
    asked = b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n"
    assert talk(service, asked).startswith(b"HTTP/1.1 400")
    assert len(accepted(talk(service, REQUEST))) == 1


def test_a_key_matches_equal_arguments_in_any_json_notation(
    client: httpx.Client,
) -> None:
    headers = {"Content-Type": "application/json", "Idempotency-Key": "spaces"}
    bodies = [b'{"content":"x"}', b'{ "content" :\n"x"}', b'{"more": 1, "content": "\\u0078"}']
    answers = [client.post("/tasks/", content=body, headers=headers) for body in bodies]
    assert [answer.status_code for answer in answers] == [202] * 3
    assert len({answer.json()["task_id"] for answer in answers}) == 1


def test_an_http_1_0_client_gets_its_lines_without_chunk_framing(service: Stack) -> None:
    request = head("/tasks/batch", 2 * len(LINE), "application/x-ndjson", version="1.0") + 2 * LINE
    (body,) = accepted(talk(service, request))
    assert [json.loads(line)["line"] for line in body.splitlines()] == [1, 2]


@pytest.mark.parametrize("kind", ["Application/X-NDJSON", "application/x-ndjson; charset=utf-8"])
def test_the_ndjson_media_type_ignores_case(client: httpx.Client, kind: str) -> None:
    answer = client.post("/tasks/batch", content=LINE, headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["status"]) == (202, "PENDING")


@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_byte_order_mark_before_ndjson_lines_is_accepted(client: httpx.Client, size: int) -> None:
    lines = b"\xef\xbb\xbf" + LINE * 2

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(lines), size):
            yield lines[start : start + size]

    kind = {"Content-Type": "application/x-ndjson"}
    answer = client.post("/tasks/batch", content=pieces(), headers=kind)
    statuses = [json.loads(line)["status"] for line in answer.text.splitlines()]
    assert statuses == ["PENDING", "PENDING"]


@pytest.mark.parametrize("path", ["/tasks/", "/tasks/batch", "/messages/"])
def test_a_compressed_body_is_refused_in_plain_words(client: httpx.Client, path: str) -> None:
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    answer = client.post(path, content=b"\x1f\x8b", headers=headers)
    assert answer.status_code == 415
    assert "compressed" in answer.json()["detail"]


@pytest.mark.parametrize("arguments", [["api"], ["api", "--no-relay"]], ids=" ".join)
def test_waiting_requests_are_answered_when_the_api_stops(
    stack: Stack, arguments: list[str]
) -> None:
    stack.start(*arguments)
    task_id = stack.post("/tasks/", {"content": "waits"})
    answers: list[httpx.Response] = []

    def wait() -> None:
        answers.append(httpx.get(f"{stack.url}/tasks/{task_id}?wait=60", timeout=70))

    threads = [threading.Thread(target=wait) for _ in range(5)]
    for thread in threads:
        thread.start()
    api = stack["api"]
    eventually(lambda: established(stack.port) >= 5, 10, "all requests wait")
    began = time.monotonic()
    assert stack.stop("api") == 0
    for thread in threads:
        thread.join(10)
    assert time.monotonic() - began < 8
    expected = (200, {"task_id": task_id, "status": "PENDING", "result": None})
    assert [(answer.status_code, answer.json()) for answer in answers] == [expected] * 5
    assert "Traceback" not in api.log


def rest_of(connection: socket.socket) -> bytes:
    """Return everything received until the server closes the connection."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize("path", ["/tasks/", "/tasks/?limit=1", "/nothing"])
def test_a_client_that_half_closes_after_its_requests_gets_the_answers(
    service: Stack, path: str
) -> None:
    get = f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall(head("/tasks/batch", len(LINE), "application/x-ndjson") + LINE + get)
        connection.shutdown(socket.SHUT_WR)
        answer = rest_of(connection)
    first, second = answer.split(b"HTTP/1.1 ")[1:]
    assert (first[:3], second[:3]) == (b"202", b"404" if path == "/nothing" else b"200")


def test_a_client_that_half_closes_gets_the_state_without_waiting(service: Stack) -> None:
    task_id = service.post("/tasks/", {"content": "waits"})
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall(f"GET /tasks/{task_id}?wait=60 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        connection.shutdown(socket.SHUT_WR)
        answer = rest_of(connection)
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["status"] == "PENDING"


def test_requests_that_cannot_finish_when_the_api_stops_get_503_without_a_traceback(
    stack: Stack,
) -> None:
    stack.start("api", "--no-relay")
    sent = {
        "upload": head("/tasks/", len(BODY)) + BODY[:-1],
        "lines": head("/tasks/batch", None, "application/x-ndjson") + b"%x\r\n" % len(LINE) + LINE,
        "store hangs": head("/tasks/", len(BODY)) + BODY,
        "answers not read": 300 * b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n",
    }
    answers = {}
    lock = psycopg2.connect(stack.database_url.replace("+psycopg2", ""))
    lock.cursor().execute("LOCK TABLE tasks")
    connections = {name: socket.create_connection(("127.0.0.1", stack.port)) for name in sent}
    for name, connection in connections.items():
        connection.settimeout(20)
        connection.sendall(sent[name])
    connections["answers not read"].recv(1)
    api = stack["api"]
    assert stack.stop("api") == 0
    lock.close()
    for name, connection in connections.items():
        answers[name] = rest_of(connection)
        connection.close()
    del answers["answers not read"]
    assert {answer[:12] for answer in answers.values()} == {b"HTTP/1.1 503"}, answers
    assert "Traceback" not in api.log


def established(port: int) -> int:
    """Return how many connections to a port are open, as the server sees them."""
    wanted = f":{port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(wanted) and row[3] == "01" for row in rows)


def test_an_idle_connection_stays_open_for_the_configured_time(stack: Stack) -> None:
    stack.start("api", "--no-relay", environment={"KEEP_ALIVE_SECONDS": "7"})
    with httpx.Client(base_url=stack.url) as client:
        assert client.get("/health").status_code == 200
        began = time.monotonic()
        assert established(stack.port) == 1
        eventually(lambda: established(stack.port) == 0, 15, "the connection is closed")
        assert time.monotonic() - began > 6
