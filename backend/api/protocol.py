"""uvicorn's HTTP protocol, with fixes for unusual requests and for clients that disconnect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from backend.api.problems import problem

if TYPE_CHECKING:
    from asyncio import TimerHandle, Transport
    from collections.abc import Callable

    from uvicorn._types import ASGI3Application
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

# The limit on bytes of a request's head, or between two pieces of its body. It is checked after
# each read, so one read may exceed it.
MAX_HEAD = 64 * 1024
_TOO_LONG = "The URL and the headers are over 64 KiB. Send less."
_NOT_HTTP = (
    "This is not a valid HTTP/1.1 request. Check the client, and that the URL begins with http:."
)
_NO_PROXY = "This is not a proxy. Send the request without CONNECT."
# Tokens of the Connection header, and headers, that ask for another protocol. A server may ignore
# them (RFC 9110, 7.8).
_UPGRADE_TOKENS = {b"upgrade", b"http2-settings"}


class HttpConnection(HttpToolsProtocol):
    """One connection; the extension `tasks_api` in a request's scope is this object."""

    # Close a connection after this many seconds without a byte while a request is incomplete, and
    # after at most twice as many in which the client reads nothing of an answer.
    read_seconds = 30.0
    _last_read: float
    _check: TimerHandle
    # A request that asks for another protocol is being read.
    _upgrading = False
    # The client wants the connection closed after its last request.
    _closes = False
    # Bytes since the parser delivered a head or a piece of a body.
    _undelivered = 0
    # The request that is being answered; `cycle` is the last one that was read.
    _answering: RequestResponseCycle | None = None
    # The client has ended its side, and waits for an answer or has left.
    _half_closed = False
    _stopping = False
    # Bytes that were not sent at the last check, if the client was silent then.
    _unsent = 0

    def has_gone(self) -> bool:
        """Return whether the client has left, or may have left."""
        return self._half_closed or self.transport.is_closing()

    def break_off(self) -> bool:
        """Close the connection if no answer can be sent now; return whether it was closed.

        None can be sent if an answer has begun, or if the client does not read earlier ones.
        """
        cycle = self._answering
        close = cycle is None or cycle.response_started or self.flow.write_paused
        if close:
            self.transport.abort()
        return close

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as uvicorn does
        """Start to serve a connection, and to check it for silence."""
        super().connection_made(transport)
        self._last_read = self.loop.time()
        self._check = self.loop.call_later(self.read_seconds, self._check_silence)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection and its requests."""
        super().connection_lost(exc)
        self._check.cancel()
        # uvicorn tells only the last request that the client left. Tell the pipelined request that
        # is being answered, too.
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()
        self.cycle = self.scope = self._answering = None  # type: ignore[assignment]  # as uvicorn does with the parser

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn always closes
        """Return whether to keep the connection, when the client has ended its side (`nc -N`).

        It is kept while an answer is due. A client that has left looks the same, so a request
        with `wait=` is answered now.
        """
        cycle = self.cycle
        if cycle is None or cycle.response_complete or cycle.more_body:
            return False
        self._half_closed = True
        cycle.keep_alive = False
        return True

    def data_received(self, data: bytes) -> None:
        """Parse bytes; answer a request for an upgrade as if it did not ask for one.

        Java's HttpClient and `curl --http2` send such requests. httptools drops their bodies, so a
        new parser gets the head without the upgrade headers, then the rest.
        """
        self._last_read = self.loop.time()
        self._unset_keepalive_if_required()
        self._undelivered += len(data)
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                if self.parser.get_method() == b"CONNECT":  # httptools calls it an upgrade
                    self._refuse(400, _NO_PROXY)
                    return
                data = self._head_without_upgrade() + data[upgrade.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn
            except httptools.HttpParserError:
                self._refuse(400, _NOT_HTTP)
                return
            else:
                break
        if self._undelivered > MAX_HEAD:
            self._refuse(431, _TOO_LONG)

    def on_headers_complete(self) -> None:
        """Begin the request, unless its head will be parsed again without the upgrade headers."""
        self._upgrading = self.parser.should_upgrade()
        if self._upgrading:
            return
        extensions: Any = {"tasks_api": self}  # ours, not part of ASGI
        self.scope["extensions"] = extensions
        super().on_headers_complete()
        self._undelivered = 0
        self.headers = []  # trailers must not become headers of the request
        # How to treat the connection if the answer ends before the body has arrived.
        if self.expect_100_continue:
            # Close: the client may leave out the body and send another request instead.
            self.cycle.keep_alive = False
        elif not self.cycle.keep_alive:
            # Stay open: closing while a body arrives resets the connection, and the answer is lost.
            self.cycle.keep_alive = self._closes = True

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body."""
        self._undelivered = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request, unless its head will be parsed again without the upgrade headers."""
        if self._upgrading:
            return
        cycle = self.cycle
        if self.expect_100_continue:
            if not cycle.response_started:
                cycle.keep_alive = self.parser.should_keep_alive() and not self._stopping
        elif self._closes:
            cycle.keep_alive = False
            if cycle.response_complete:
                self.transport.close()
        super().on_message_complete()

    def shutdown(self) -> None:
        """Begin to stop: requests that wait for the end of a task are answered now."""
        self._stopping = True
        stop_waiting: Callable[[], None] | None = self.app_state.get("stop_waiting")
        if stop_waiting is not None:
            stop_waiting()
        super().shutdown()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def _refuse(self, status: int, detail: str) -> None:
        """Answer bytes that are not a request, and close the connection.

        Complete requests before them are answered first. If one is still being answered, these
        bytes get no answer.
        """
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if not cycle.more_body:
                cycle.keep_alive = False
                return
            if cycle.response_started or self.pipeline:  # an answer would be out of order
                self.transport.close()
                return
        answer = problem(status, detail, headers={"Connection": "close"})
        headers = [*self.server_state.default_headers, *answer.raw_headers]
        lines = [b"%s: %s\r\n" % header for header in headers]
        self.transport.write(b"".join([STATUS_LINE[status], *lines, b"\r\n", answer.body]))
        self.transport.close()

    def _head_without_upgrade(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        for name, value in self.headers:
            kept = value
            if name == b"connection":
                tokens = [token.strip() for token in value.split(b",")]
                kept = b", ".join(t for t in tokens if t.lower() not in _UPGRADE_TOKENS)
            if kept and name not in _UPGRADE_TOKENS:
                lines.append(name + b": " + kept)
        return b"\r\n".join([*lines, b"", b""])

    def _check_silence(self) -> None:
        """Close the connection if it was silent for too long; else check again later.

        The limit applies during a request, and while the client does not read an answer. It does
        not apply while reading is paused, or between requests: uvicorn's keep-alive timer runs
        then.
        """
        now = self.loop.time()
        silent = now - self._last_read >= self.read_seconds
        if silent and self._is_incomplete() and not self.flow.read_paused:
            self.transport.close()
        unsent = self.transport.get_write_buffer_size() if silent else 0
        if unsent and unsent == self._unsent:
            self.transport.abort()
            return
        self._unsent = unsent
        again = self.read_seconds if silent else self._last_read + self.read_seconds - now
        self._check = self.loop.call_later(again, self._check_silence)

    def _is_incomplete(self) -> bool:
        """Return whether a request, or the rest of one, is still to come.

        uvicorn starts its keep-alive timer after an answer; the first bytes of the next request
        stop it.
        """
        cycle = self.cycle
        if cycle is None:
            return True
        return self.timeout_keep_alive_task is None if cycle.response_complete else cycle.more_body
