"""What happens to a request before it is routed: HEAD, one form of each path, a limit on bodies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException

from backend.api.problems import problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 1024 * 1024
_TOO_LARGE = "The body is over 1 MiB. Send less, or several tasks."
# The two collections are documented with their last slash, everything else without.
_WITH_SLASH = {"/tasks": "/tasks/", "/messages": "/messages/"}


class Edge:
    """ASGI middleware; serves each path with and without its last slash, without redirects.

    HEAD is served as GET: the server, which has its own copy of the scope, sends no body.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 413."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        bare = scope["path"].rstrip("/")
        scope["path"] = _WITH_SLASH.get(bare, bare or "/")
        if scope["path"] == "/tasks/batch" and _is_ndjson(scope):
            # Read line by line, with a limit on each line.
            await self._app(scope, receive, send)
            return
        length = _declared_length(scope)
        if length is not None and length > MAX_BODY:
            # Nothing of the body is read; the connection cannot be used again.
            answer = problem(413, _TOO_LARGE, headers={"Connection": "close"})
            await answer(scope, receive, send)
            return
        # The server holds a body to the length that it declares.
        await self._app(scope, _limited(receive) if length is None else receive, send)


def _is_ndjson(scope: Scope) -> bool:
    content_type: bytes = dict(scope["headers"]).get(b"content-type", b"")
    return content_type.startswith(b"application/x-ndjson")


def _declared_length(scope: Scope) -> int | None:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else None
    return None


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
