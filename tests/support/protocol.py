"""A small application behind our protocol, and clients that send raw bytes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import uvicorn

from backend.api.protocol import HttpConnection
from tests.support.ports import free_port

SILENCE = 0.3


POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"


async def application(_scope: Any, receive: Any, send: Any, pause: float = 2 * SILENCE) -> None:  # noqa: ANN401 - ASGI
    """Answer with the length of the body, after a pause."""
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message["body"])
        more = message["more_body"]
    await asyncio.sleep(pause)  # the work
    body = json.dumps(size).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def quick(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI
    """Answer as `application` does, after a shorter pause."""
    await application(scope, receive, send, 0.01)


async def early(_scope: Any, _receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI
    """Answer without reading the body."""
    headers = [(b"content-length", b"5")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"early"})


class ShortOfPatience(HttpConnection):
    """A connection that waits only SILENCE seconds for the rest of a request."""

    read_seconds = SILENCE


def serve(talk: Any, app: Any = application) -> Any:  # noqa: ANN401 - what it returns
    """Serve `app` with our protocol while the client `talk(port)` runs; return its result."""
    port = free_port()
    config = uvicorn.Config(app, port=port, http=ShortOfPatience, lifespan="off", log_config=None)

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

    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        return runner.run(run())


async def exchange(port: int, *pieces: bytes, end: bool = False) -> bytes:
    """Send pieces; if `end`, half-close. Return everything until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in pieces:
        writer.write(piece)
        await asyncio.sleep(0.01)  # so that each piece is read separately
    if end:
        writer.write_eof()
    answer = await reader.read()
    writer.close()
    return answer
