"""Prepares a request for routing: HEAD, one form of each path, a limit on bodies."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from backend.api.problems import problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from backend.api.protocol import HttpConnection

NDJSON = "application/x-ndjson"
MAX_BODY = 1024 * 1024
TOO_LARGE = "The body is over 1 MiB. Send less, or several tasks."
_STOPPING = (
    "The API is stopping. A task may have been stored: send the request again with the same"
    " Idempotency-Key."
)
ENCODED = "The body is compressed. Send it as it is, without Content-Encoding."
# The two collections are documented with their last slash, everything else without.
_WITH_SLASH = {"/tasks": "/tasks/", "/messages": "/messages/"}


class RequestLimits:
    """ASGI middleware; serves each path with and without its last slash, without redirects.

    HEAD is served as GET: the server sends no body, because its own copy of the scope says HEAD. A
    path may come with the prefix `root_path` or, from a proxy that removes it, without.
    """

    def __init__(self, app: ASGIApp, root_path: str = "") -> None:
        self._app = app
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 413 or 415. Answer 503 if the API must stop first."""
        app = self._app
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        bare = scope["path"].rstrip("/")
        if self._root_path and f"{bare}/".startswith(f"{self._root_path}/"):
            bare = bare.removeprefix(self._root_path)
        path = _WITH_SLASH.get(bare, bare or "/")
        # ASGI: `path` includes `root_path`.
        scope["path"] = self._root_path + path
        if self._root_path:
            scope["root_path"] = self._root_path
        length, encoded = _body_headers(scope)
        # The server discards a body that is not read, so that a client or a proxy that still sends
        # reads the answer instead of seeing a reset.
        if encoded:
            app = problem(415, ENCODED)
        elif path == "/tasks/batch" and is_ndjson(scope):
            pass  # it is read line by line, with a limit on each line
        elif length is None and scope["method"] != "GET":  # its body is not read
            receive = _limited(receive)
        elif length and length > MAX_BODY:  # the server lets no body exceed its declared length
            app = problem(413, TOO_LARGE)
        try:
            await app(scope, receive, send)
        except asyncio.CancelledError:  # by uvicorn, some seconds after it was told to stop
            await _end(scope, receive, send)


async def _end(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer 503, or close the connection if no answer can be sent now."""
    connection: HttpConnection = scope["extensions"]["tasks_api"]
    if not connection.break_off():
        await problem(503, _STOPPING, {"Retry-After": "2"})(scope, receive, send)
        return
    while (await receive())["type"] != "http.disconnect":
        pass


def is_ndjson(scope: Scope) -> bool:
    """Return whether a request's body is NDJSON, by its Content-Type."""
    return Headers(scope=scope).get("content-type", "").lower().startswith(NDJSON)


def _body_headers(scope: Scope) -> tuple[int | None, bool]:
    """Return the length that a body declares, None without one, and whether it is compressed."""
    length, encoded = None, False
    for name, value in scope["headers"]:
        if name == b"content-length":
            length = int(value) if value.isdigit() else None
        elif name == b"content-encoding":
            encoded = value.strip().lower() not in {b"", b"identity"}
    return length, encoded


def _limited(receive: Receive) -> Receive:
    """Return a `receive` that raises HTTPException 413 when the body exceeds MAX_BODY."""
    size = 0

    async def counted() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > MAX_BODY:
            raise HTTPException(413, TOO_LARGE)
        return message

    return counted
