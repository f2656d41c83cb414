"""Connections whose client is silent."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import uvicorn

from backend.api import protocol
from tests.support.ports import free_port

pytestmark = pytest.mark.usefixtures("configured")

SILENCE = 0.3


async def application(_scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI
    """Answer with the length of the body, after a moment."""
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message["body"])
        more = message["more_body"]
    await asyncio.sleep(2 * SILENCE)
    body = json.dumps(size).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def serve(monkeypatch: pytest.MonkeyPatch, talk: Any) -> Any:  # noqa: ANN401 - what it returns
    """Serve with our protocol while a client talks; return what that returns."""
    monkeypatch.setattr(protocol, "READ_SECONDS", SILENCE)
    port = free_port()
    config = uvicorn.Config(
        application, port=port, http=protocol.HttpConnection, lifespan="off", log_config=None
    )

    async def run() -> object:
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server._serve())
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        try:
            async with asyncio.timeout(10):
                return await talk(port)
        finally:
            server.should_exit = True
            await serving

    return asyncio.run(run())


POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"


@pytest.mark.parametrize("sent", [b"", b"POST / HT", POST, POST + b"ab"])
def test_a_connection_that_owes_a_request_or_the_rest_of_one_is_closed(
    monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    async def talk(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        answer = await reader.read()
        writer.close()
        return answer

    assert serve(monkeypatch, talk) == b""


def test_a_connection_that_is_silent_within_its_second_request_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def talk(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(POST + b"abcd")
        await reader.readuntil(b"\r\n\r\n4")
        writer.write(b"POST / HT")
        answer = await reader.read()
        writer.close()
        return answer

    assert serve(monkeypatch, talk) == b""


def test_a_request_that_comes_slowly_but_comes_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    async def talk(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for byte in POST + b"abcd":
            writer.write(bytes([byte]))
            await asyncio.sleep(SILENCE / 10)
        answer = await reader.readuntil(b"\r\n\r\n4")
        writer.close()
        return answer

    assert serve(monkeypatch, talk).startswith(b"HTTP/1.1 200")
