"""Reads X-Forwarded-* headers: behind a proxy they have the client and the address it used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_HEADERS = {b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"}


class ForwardedHeaders:
    """ASGI middleware that uses X-Forwarded-For, -Host and -Proto of trusted proxies.

    Sets `scope["forwarded"]` for a request that has one of them.
    """

    def __init__(self, app: ASGIApp, trusted: str) -> None:
        inner: Any = app  # uvicorn has its own types for ASGI
        self._inner: Any = ProxyHeadersMiddleware(inner, trusted)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on. This must be the outermost middleware: it needs the peer's address."""
        peer = scope.get("client")
        if scope["type"] == "http" and (peer and peer[0]) in self._inner.trusted_hosts:
            forwarded = {name: value for name, value in scope["headers"] if name in _HEADERS}
            if forwarded:
                scope["forwarded"] = True
            # A proxy may append to what the client sent, so the last one is the proxy's.
            host = forwarded.get(b"x-forwarded-host", b"").rpartition(b",")[2].strip()
            if host:
                rest = [header for header in scope["headers"] if header[0] != b"host"]
                scope["headers"] = [(b"host", host), *rest]
        await self._inner(scope, receive, send)
