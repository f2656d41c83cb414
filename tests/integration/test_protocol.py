"""Connections whose client is silent, disconnects early, or sends unusual requests."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from typing import Any

import pytest

from tests.support.protocol import POST, SILENCE, application, early, exchange, quick, serve

pytestmark = pytest.mark.usefixtures("configured")


@pytest.mark.parametrize("sent", [b"", b"POST / HT", POST, POST + b"ab"])
def test_a_connection_with_a_missing_or_incomplete_request_is_closed(sent: bytes) -> None:
    async def talk(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        answer = await reader.read()
        writer.close()
        return answer

    assert serve(talk) == b""


def test_a_slow_request_is_answered() -> None:
    async def talk(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        sent = POST + b"abcd"
        for begin in range(0, len(sent), 4):
            writer.write(sent[begin : begin + 4])
            await asyncio.sleep(SILENCE / 10)  # in total longer than the allowed silence
        answer = await reader.readuntil(b"\r\n\r\n4")
        writer.close()
        return answer

    assert serve(talk).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("sent", "answers"),
    [
        (POST + b"abcd", 1),
        (2 * (POST + b"abcd"), 2),
        (POST.replace(b"1.1", b"1.0") + b"abcd", 1),
        (POST + b"abc", 0),
        (POST + b"abcd" + b"POST / HT", 1),
    ],
    ids=["one", "two", "http 1.0", "incomplete", "one and a half"],
)
def test_a_client_that_half_closes_gets_the_answers_to_complete_requests(
    sent: bytes, answers: int
) -> None:
    answer = serve(lambda port: exchange(port, sent, end=True))
    assert answer.count(b"HTTP/1.1 200 OK") == answers
    assert answer.count(b"connection: close") == bool(answers)


def test_a_request_is_answered_although_invalid_bytes_follow_it() -> None:
    answer = serve(lambda port: exchange(port, POST + b"abcd\0\r\n"), quick)
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x00\xf8\x01\x00\x00\xf4\x03\x03",  # TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        POST.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n"),
        POST.replace(b"Host: x", b"X: a\0b"),
        POST.replace(b"Content-Length: 4", b"Transfer-Encoding: chunked") + b"zz\r\n",
    ],
    ids=["TLS", "HTTP/2", "two lengths", "NUL", "size of a chunk"],
)
def test_bytes_that_are_not_http_are_refused_with_a_problem_document(sent: bytes) -> None:
    head, _, body = serve(lambda port: exchange(port, sent)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request")
    assert b"content-type: application/problem+json" in head
    assert json.loads(body)["status"] == 400


def test_a_client_that_disconnects_before_its_answers_causes_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    begun = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI
        begun.set()
        await application(scope, receive, send)

    async def talk(port: int) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(3 * (POST + b"abcd"))
        await begun.wait()
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    serve(talk, app)  # this waits for running requests
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize("more", [b"", b"Connection: close\r\n"])
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_an_early_answer_reaches_a_client_that_first_sends_its_whole_body(
    version: bytes, more: bytes
) -> None:
    size = 16_000_000
    sent = POST.replace(b"1.1", version).replace(b"Length: 4", b"Length: %d" % size)

    def send_all(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(sent.replace(b"Host", more + b"Host") + bytes(size))
            answer = connection.recv(1000)
            if not more and version == b"1.1":  # the connection can be used again
                connection.sendall(POST.replace(b"Host", b"Connection: close\r\nHost") + b"abcd")
            while part := connection.recv(1000):
                answer += part
            return answer

    answer = serve(lambda port: asyncio.to_thread(send_all, port), early)
    assert answer.count(b"early") == 1 + (not more and version == b"1.1")


EXPECT = POST.replace(b"Host", b"Expect: 100-continue\r\nHost")


def test_an_early_answer_to_expect_100_continue_closes_the_connection() -> None:
    answer = serve(lambda port: exchange(port, EXPECT), early)
    assert b"connection: close" in answer
    assert answer.endswith(b"early")


def test_a_client_that_got_100_continue_keeps_its_connection() -> None:
    async def talk(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(EXPECT)
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"abcd")
            answer = await reader.readuntil(b"\r\n\r\n4")
        writer.close()
        return answer

    assert b"connection: close" not in serve(talk, quick)


CHUNKED = POST.replace(b"Content-Length: 4", b"Transfer-Encoding: chunked")


def test_chunk_extensions_and_trailers_are_ignored() -> None:
    seen: list[bytes] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI
        await quick(scope, receive, send)
        seen.extend(name for name, _ in scope["headers"])

    sent = CHUNKED + b'4;a=b;c="d"\r\nabcd\r\n0\r\nIdempotency-Key: x\r\n\r\n'
    answer = serve(lambda port: exchange(port, sent, end=True), app)
    assert answer.endswith(b"4")
    assert seen == [b"host", b"transfer-encoding"]


@pytest.mark.parametrize(
    "begin",
    [b"GET /", POST[:-2] + b"X: ", CHUNKED + b"4\r\nabcd\r\n0\r\nX: ", CHUNKED + b"4;"],
    ids=["url", "header", "trailer", "extension"],
)
def test_a_request_head_that_is_too_long_is_refused(begin: bytes) -> None:
    async def talk(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(begin)
        for _ in range(33):
            await asyncio.sleep(0.002)  # so that each piece is read separately
            writer.write(b"a" * 2048)
        answer = await reader.read()
        writer.close()
        return answer

    assert serve(talk).startswith(b"HTTP/1.1 431 Request Header Fields Too Large")


def test_sending_ends_when_the_client_does_not_read_the_answer() -> None:
    ended = asyncio.Event()

    async def app(_scope: Any, _receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(1000):
            await send({"type": "http.response.body", "body": bytes(100_000), "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        ended.set()

    async def talk(port: int) -> None:
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(POST + b"abcd")
        await ended.wait()
        connection.close()

    serve(talk, app)


@pytest.mark.parametrize("after", [b"\r\n", b"POST / HT"])
def test_an_idle_connection_is_closed_after_an_empty_line_or_half_a_request(after: bytes) -> None:
    async def talk(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(POST + b"abcd")
        await reader.readuntil(b"\r\n\r\n4")
        writer.write(after)
        rest = await reader.read()
        writer.close()
        return rest

    assert serve(talk, quick) == b""


def test_an_upgrade_request_in_http_1_0_is_answered_in_http_1_0() -> None:
    upgrade = b"Connection: Upgrade\r\nUpgrade: h2c\r\nHost"
    sent = POST.replace(b"1.1", b"1.0").replace(b"Host", upgrade) + b"abcd"
    answer = serve(lambda port: exchange(port, sent), quick)  # reads until the connection is closed
    assert answer.endswith(b"4")
