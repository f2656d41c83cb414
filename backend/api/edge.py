"""What happens to a request before it is routed: HEAD, one form of each path, a limit on bodies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException

from backend.api.problems import problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 1024 * 1024
_TOO_LARGE = "The body is over 1 MiB. Send less, or several tasks."
_ENCODED = "The body is compressed. Send it as it is, without Content-Encoding."
# The two collections are documented with their last slash, everything else without.
_WITH_SLASH = {"/tasks": "/tasks/", "/messages": "/messages/"}


class Edge:
    """ASGI middleware; serves each path with and without its last slash, without redirects.

    HEAD is served as GET: the server, which has its own copy of the scope, sends no body.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 413 or 415."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        bare = scope["path"].rstrip("/")
        scope["path"] = _WITH_SLASH.get(bare, bare or "/")
        length, encoded = _body_headers(scope)
        if encoded:
            answer = problem(415, _ENCODED, headers={"Connection": "close"})
            await answer(scope, receive, send)
            return
        if scope["path"] == "/tasks/batch" and _is_ndjson(scope):
            # Read line by line, with a limit on each line.
            await self._app(scope, receive, send)
            return
        if length is not None and length > MAX_BODY:
            # Nothing of the body is read; the connection cannot be used again.
            answer = problem(413, _TOO_LARGE, headers={"Connection": "close"})
            await answer(scope, receive, send)
            return
        # The server holds a body to the length that it declares.
        await self._app(scope, _limited(receive) if length is None else receive, send)


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


def _limited(receive: Receive) -> Receive:
    """Count what a body without a declared length brings, and stop at the limit."""
    size = 0

    async def counted() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > MAX_BODY:
            raise HTTPException(413, _TOO_LARGE, headers={"Connection": "close"})
        return message

    return counted
