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
PACE_SECONDS = 0.001  # how late a request may be sent with a limited rate


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
    rate: float | None = None,
) -> Load:
    """Send requests over all connections at the same time; return the answers.

    Each connection sends its next request when it has the answer to the last one; with `rate`, it
    waits, so that at most this many are sent in a second. Ends after `seconds`, or after `count`
    answers without those with status 429 (too many waiting tasks). Then it waits for the answers to
    the requests under way.
    """
    result = Load()
    multi = pycurl.CurlMulti()
    multi.setopt(pycurl.M_MAXCONNECTS, connections)
    idle = [_Connection(url) for _ in range(connections)]
    senders = {sender.curl: sender for sender in idle}
    left, sent = float("inf") if count is None else count, 0
    begin, cpu = time.monotonic(), _cpu()
    while True:
        passed = time.monotonic() - begin
        going_on = left > 0 and passed < seconds
        while going_on and idle and left > 0 and (rate is None or sent < passed * rate):
            _send(multi, idle.pop(), request())
            left, sent = left - 1, sent + 1
        if not going_on and len(idle) == connections:
            break
        multi.perform()
        for curl, ok in _finished(multi):
            status, body, latency = senders[curl].answer()
            result.add(status if ok else 0, body, latency)
            left += status == TOO_MANY
            multi.remove_handle(curl)
            idle.append(senders[curl])
        if len(idle) == connections:  # until the next one is due
            time.sleep(PACE_SECONDS)
        else:
            multi.select(0.01 if rate is None else PACE_SECONDS)
    result.ended = time.monotonic()
    result.seconds, result.cpu_seconds = result.ended - begin, _cpu() - cpu
    return result


def _send(multi: Any, sender: _Connection, request: Request) -> None:  # noqa: ANN401 - no types
    sender.prepare(request)
    multi.add_handle(sender.curl)


def _finished(multi: Any) -> list[tuple[Any, bool]]:  # noqa: ANN401 - pycurl has no types
    _, succeeded, failed = multi.info_read()
    return [(curl, True) for curl in succeeded] + [(curl, False) for curl, *_ in failed]


def _cpu() -> float:
    times = os.times()
    return times.user + times.system
