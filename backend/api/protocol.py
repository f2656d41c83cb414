"""uvicorn's HTTP protocol, with fixes for upgrade requests, silent clients and shutdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    from asyncio import TimerHandle, Transport
    from collections.abc import Callable

# Close a connection after this many seconds without a byte while a request is incomplete.
READ_SECONDS = 30.0
# Tokens of the Connection header, and headers, that ask for another protocol. A server may ignore
# them (RFC 9110, 7.8).
_UPGRADE_TOKENS = {b"upgrade", b"http2-settings"}


class HttpConnection(HttpToolsProtocol):
    """One connection; the extension `tasks_api` in a request's scope is this object."""

    _last_read: float
    _check: TimerHandle
    # A request that asks for another protocol is being read.
    _upgrading = False

    def has_gone(self) -> bool:
        """Return whether the client has left."""
        return self.transport.is_closing()

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as uvicorn does
        """Serve a connection, and watch over it."""
        super().connection_made(transport)
        self._last_read = self.loop.time()
        self._check = self.loop.call_later(READ_SECONDS, self._check_silence)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection and its last request."""
        super().connection_lost(exc)
        self._check.cancel()
        self.cycle = self.scope = None  # type: ignore[assignment]  # as uvicorn does with the parser

    def data_received(self, data: bytes) -> None:
        """Parse bytes; answer a request that asks for an upgrade in HTTP/1.1.

        Java's HttpClient and `curl --http2` send such requests. httptools drops their bodies, so a
        new parser gets the head without the upgrade headers, then the rest.
        """
        self._last_read = self.loop.time()
        self._unset_keepalive_if_required()
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                if self.parser.get_method() == b"CONNECT":  # an upgrade whatever its headers are
                    self.send_400_response("This is no proxy.")
                    return
                data = self._head_without_upgrade() + data[upgrade.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn
            except httptools.HttpParserError:
                self.send_400_response("Invalid HTTP request received.")
                return
            else:
                return

    def on_headers_complete(self) -> None:
        """Begin the request, unless its head will be parsed again without the upgrade headers."""
        self._upgrading = self.parser.should_upgrade()
        if self._upgrading:
            return
        extensions: Any = {"tasks_api": self}  # ours, no extension of ASGI's
        self.scope["extensions"] = extensions
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End the request, unless its head will be parsed again without the upgrade headers."""
        if not self._upgrading:
            super().on_message_complete()

    def shutdown(self) -> None:
        """Begin to stop: requests that wait for the end of a task are answered now."""
        stop_waiting: Callable[[], None] | None = self.app_state.get("stop_waiting")
        if stop_waiting is not None:
            stop_waiting()
        super().shutdown()

    def _head_without_upgrade(self) -> bytes:
        lines = [b"%s %s HTTP/1.1" % (self.parser.get_method(), self.url)]
        for name, value in self.headers:
            kept = value
            if name == b"connection":
                tokens = [token.strip() for token in value.split(b",")]
                kept = b", ".join(t for t in tokens if t.lower() not in _UPGRADE_TOKENS)
            if kept and name not in _UPGRADE_TOKENS:
                lines.append(name + b": " + kept)
        return b"\r\n".join([*lines, b"", b""])

    def _check_silence(self) -> None:
        """Close the connection if it was silent within a request for too long; else look again.

        Not while reading is paused, nor between requests, when uvicorn's keep-alive timer runs.
        """
        now = self.loop.time()
        silent = now - self._last_read >= READ_SECONDS
        cycle = self.cycle
        # uvicorn makes a scope when a request begins, and a cycle of it when its head is complete.
        incomplete = cycle is None or cycle.scope is not self.scope or cycle.more_body
        if silent and incomplete and not self.flow.read_paused:
            self.transport.close()
            return
        again = READ_SECONDS if silent else self._last_read + READ_SECONDS - now
        self._check = self.loop.call_later(again, self._check_silence)
