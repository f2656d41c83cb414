"""What happens to a request before it is routed: HEAD, one form of each path, a limit on bodies."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException

from backend.api.problems import problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 1024 * 1024
# How long the rest of a body is discarded after the answer that refuses it: in all, and in silence.
DISCARD_SECONDS, SILENCE_SECONDS = 10.0, 1.0
TOO_LARGE = "The body is over 1 MiB. Send less, or several tasks."
ENCODED = "The body is compressed. Send it as it is, without Content-Encoding."
# The two collections are documented with their last slash, everything else without.
_WITH_SLASH = {"/tasks": "/tasks/", "/messages": "/messages/"}


class Edge:
    """ASGI middleware; serves each path with and without its last slash, without redirects.

    HEAD is served as GET: the server, which has its own copy of the scope, sends no body.
    A path may come with the prefix `root_path` or, from a proxy that removes it, without.
    """

    def __init__(self, app: ASGIApp, root_path: str = "") -> None:
        self._app = app
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 413 or 415."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        bare = scope["path"].rstrip("/")
        if self._root_path and f"{bare}/".startswith(f"{self._root_path}/"):
            bare = bare.removeprefix(self._root_path)
        path = _WITH_SLASH.get(bare, bare or "/")
        # ASGI has the prefix in both.
        scope["path"] = self._root_path + path
        if self._root_path:
            scope["root_path"] = self._root_path
        length, encoded = _body_headers(scope)
        if encoded:
            await _refuse(415, ENCODED, scope, receive, send)
        elif path == "/tasks/batch" and _is_ndjson(scope):
            # Read line by line, with a limit on each line.
            await self._app(scope, receive, send)
        elif length is None and scope["method"] != "GET":  # whose body nobody reads
            body = _Body(receive, send)
            await self._app(scope, body.receive, body.send)
        elif length is not None and length > MAX_BODY:
            await _refuse(413, TOO_LARGE, scope, receive, send)
        else:
            # The server holds a body to the length that it declares.
            await self._app(scope, receive, send)


async def _refuse(status: int, detail: str, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer without the application; the connection is closed afterwards."""
    body = _Body(receive, send, refused=True)
    answer = problem(status, detail, headers={"Connection": "close"})
    await answer(scope, body.receive, body.send)


def _is_ndjson(scope: Scope) -> bool:
    for name, value in scope["headers"]:
        if name == b"content-type":  # the first, as for the route
            return bool(value.lower().startswith(b"application/x-ndjson"))
    return False


def _body_headers(scope: Scope) -> tuple[int | None, bool]:
    """Return the length that a body declares, None without one, and whether it is compressed."""
    length, encoded = None, False
    for name, value in scope["headers"]:
        if name == b"content-length":
            length = int(value) if value.isdigit() else None
        elif name == b"content-encoding":
            encoded = value.strip().lower() not in {b"", b"identity"}
    return length, encoded


class _Body:
    """A body without a declared length, with a limit, or one that is refused.

    The rest of a refused body is discarded after the answer. If the connection was closed at once,
    a client or a proxy that still sends would see a reset instead of the answer.
    """

    def __init__(self, receive: Receive, send: Send, *, refused: bool = False) -> None:
        self._receive = receive
        self._send = send
        self._refused = refused
        self._size = 0
        self._more = True

    async def receive(self) -> Message:
        """Return the next part. Raises HTTPException over the limit."""
        message = await self._receive()
        self._more = message.get("more_body", False)
        self._size += len(message.get("body", b""))
        if self._size > MAX_BODY and not self._refused:
            self._refused = True
            raise HTTPException(413, TOO_LARGE, headers={"Connection": "close"})
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the answer; after the last part of a refusal, discard the body first."""
        last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if self._refused and last:
            await self._send({**message, "more_body": True})
            with suppress(TimeoutError):
                async with asyncio.timeout(DISCARD_SECONDS):
                    while self._more:
                        await asyncio.wait_for(self.receive(), SILENCE_SECONDS)
            message = {"type": "http.response.body"}
        await self._send(message)
