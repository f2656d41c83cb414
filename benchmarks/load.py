"""The load generator: one thread with any number of connections, by libcurl through pycurl.

For a request it takes about 0.015 ms of processor time, a tenth of what the cheapest contender
takes for the answer. It is the same for all contenders. It keeps every answer for the checks.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pycurl  # type: ignore[import-untyped]  # it has no types

if TYPE_CHECKING:
    from collections.abc import Callable

CONNECTIONS = 32
TIMEOUT_SECONDS = 60
TOO_MANY = 429
PACE_SECONDS = 0.001  # how late `load_at_rate` may send a request


@dataclass(frozen=True, slots=True)
class Request:
    """A request: a POST if it has a body, else a GET."""

    path: str
    body: bytes | None = None


@dataclass
class Load:
    """The answers to a load; `latencies` are in seconds."""

    seconds: float = 0
    cpu_seconds: float = 0
    statuses: dict[int, int] = field(default_factory=dict)
    bodies: list[bytes] = field(default_factory=list)  # of 2xx answers only
    latencies: list[float] = field(default_factory=list)
    ended: float = 0  # time.monotonic() at the last answer

    @property
    def good(self) -> int:
        """Return how many answers were 2xx."""
        return len(self.bodies)

    @property
    def rate(self) -> float:
        """Return the number of 2xx answers per second."""
        return self.good / self.seconds

    @property
    def bad(self) -> dict[int, int]:
        """Return how many other answers there were, by status; status 0: no answer."""
        return {status: n for status, n in self.statuses.items() if not 200 <= status < 300}

    def add(self, status: int, body: bytes, latency: float) -> None:
        """Record an answer."""
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if 200 <= status < 300:
            self.bodies.append(body)
            self.latencies.append(latency)


class _Connection:
    """A handle of libcurl that sends one request after another."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._chunks: list[bytes] = []
        self.curl = pycurl.Curl()
        self.curl.setopt(pycurl.HTTPHEADER, ["Content-Type: application/json", "Expect:"])
        self.curl.setopt(pycurl.WRITEFUNCTION, self._chunks.append)
        self.curl.setopt(pycurl.TIMEOUT, TIMEOUT_SECONDS)
        self.curl.setopt(pycurl.NOSIGNAL, 1)
        self.curl.setopt(pycurl.PROXY, "")

    def prepare(self, request: Request) -> None:
        self._chunks.clear()
        self.curl.setopt(pycurl.URL, self._base + request.path)
        if request.body is None:
            self.curl.setopt(pycurl.HTTPGET, 1)
        else:
            self.curl.setopt(pycurl.POSTFIELDS, request.body)

    def answer(self) -> tuple[int, bytes, float]:
        status: int = self.curl.getinfo(pycurl.RESPONSE_CODE)
        return status, b"".join(self._chunks), self.curl.getinfo(pycurl.TOTAL_TIME)


def load(
    url: str,
    request: Callable[[], Request],
    *,
    seconds: float = TIMEOUT_SECONDS,
    count: int | None = None,
    connections: int = CONNECTIONS,
) -> Load:
    """Send requests over all connections at the same time; return the answers.

    Each connection sends its next request when it has the answer to the last one. Ends after
    `seconds`, or after `count` answers without those with status 429 (too many waiting tasks).
    Then it waits for the answers to the requests under way.
    """
    result = Load()
    multi = pycurl.CurlMulti()
    multi.setopt(pycurl.M_MAXCONNECTS, connections)
    left = float("inf") if count is None else count
    begin, cpu = time.monotonic(), _cpu()
    senders = _send_first(multi, url, request, int(min(connections, left)))
    left -= len(senders)
    under_way = len(senders)
    while under_way:
        multi.perform()
        for curl, ok in _finished(multi):
            sender = senders[curl]
            status, body, latency = sender.answer()
            result.add(status if ok else 0, body, latency)
            left += status == TOO_MANY
            multi.remove_handle(curl)
            if left > 0 and time.monotonic() - begin < seconds:
                sender.prepare(request())
                multi.add_handle(curl)
                left -= 1
            else:
                under_way -= 1
        multi.select(0.01)
    result.ended = time.monotonic()
    result.seconds, result.cpu_seconds = result.ended - begin, _cpu() - cpu
    return result


def load_at_rate(url: str, request: Callable[[], Request], rate: float, seconds: float) -> Load:
    """Send `rate` requests a second for `seconds`; return the answers.

    A request that is due while all connections wait for answers is sent late.
    """
    result = Load()
    multi = pycurl.CurlMulti()
    idle = [_Connection(url) for _ in range(CONNECTIONS)]
    senders = {sender.curl: sender for sender in idle}
    sent, begin = 0, time.monotonic()
    while (passed := time.monotonic() - begin) < seconds or len(idle) < CONNECTIONS:
        while idle and sent < min(passed, seconds) * rate:
            sender = idle.pop()
            sender.prepare(request())
            multi.add_handle(sender.curl)
            sent += 1
        multi.perform()
        for curl, ok in _finished(multi):
            status, body, latency = senders[curl].answer()
            result.add(status if ok else 0, body, latency)
            multi.remove_handle(curl)
            idle.append(senders[curl])
        if len(idle) == CONNECTIONS:
            time.sleep(PACE_SECONDS)
        else:
            multi.select(PACE_SECONDS)
    result.ended = time.monotonic()
    result.seconds = result.ended - begin
    return result


def _send_first(
    multi: Any,  # noqa: ANN401 - pycurl has no types
    url: str,
    request: Callable[[], Request],
    connections: int,
) -> dict[Any, _Connection]:
    """Start a request on each connection; return the connections by their handles."""
    senders = {}
    for _ in range(connections):
        sender = _Connection(url)
        senders[sender.curl] = sender
        sender.prepare(request())
        multi.add_handle(sender.curl)
    return senders


def _finished(multi: Any) -> list[tuple[Any, bool]]:  # noqa: ANN401 - pycurl has no types
    _, succeeded, failed = multi.info_read()
    return [(curl, True) for curl in succeeded] + [(curl, False) for curl, *_ in failed]


def _cpu() -> float:
    times = os.times()
    return times.user + times.system
