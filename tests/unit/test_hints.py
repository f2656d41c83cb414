"""Hints: when they are sent, when they are dropped, and what is logged."""

from __future__ import annotations

import logging
import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from backend.broker.hints import SILENCE_SECONDS, Hints

if TYPE_CHECKING:
    from collections.abc import Callable


class Broker:
    """Replaces the connections; `notice` is called when one is read from."""

    def __init__(self) -> None:
        self.connected = 0
        self.notice: Callable[[Any], None] = lambda _: None
        self.collected = 0

    def connect(self, **_: object) -> Any:  # noqa: ANN401 - stands for kombu's
        self.connected += 1
        made = SimpleNamespace(connection=SimpleNamespace(), default_channel=None)

        def drain_events(timeout: float) -> None:
            assert timeout == 0
            self.notice(made.connection)

        def collect() -> None:
            self.collected += 1

        made.drain_events, made.collect = drain_events, collect
        return made


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def hints(broker: Broker) -> Hints:
    return Hints(open_connection=broker.connect)


def fail(_: object) -> None:
    raise ConnectionResetError


def let_time_pass(hints: Hints, seconds: float) -> None:
    """Make a pause end this number of seconds earlier."""
    hints._silent_until -= seconds


def test_all_hints_share_one_connection(hints: Hints, broker: Broker) -> None:
    sent: list[object] = []
    for _ in range(3):
        hints.send(sent.append)
    assert (len(sent), broker.connected) == (3, 1)


def test_after_a_failure_hints_pause_and_log_one_line(
    hints: Hints, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    sent: list[object] = []
    hints.send(fail)
    let_time_pass(hints, SILENCE_SECONDS / 2)
    hints.send(sent.append)
    assert (sent, broker.connected, broker.collected) == ([], 1, 1)
    let_time_pass(hints, SILENCE_SECONDS / 2)
    hints.send(fail)
    lines = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) == 1
    assert "(ConnectionResetError)" in lines[0]
    let_time_pass(hints, SILENCE_SECONDS)
    hints.send(sent.append)
    assert (len(sent), broker.connected) == (1, 3)


def test_nothing_is_sent_on_a_blocked_connection_until_it_is_unblocked(
    hints: Hints, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    sent: list[object] = []
    hints.send(sent.append)
    connection: Any = hints._connection
    # As py-amqp does, which reads before it publishes.
    hints.send(lambda _: connection.connection.on_blocked("low on memory"))
    for _ in range(3):
        hints.send(sent.append)
    assert len(sent) == 1
    assert ["alarm is raised" in record.message for record in caplog.records] == [True]
    broker.notice = lambda established: established.on_unblocked()
    hints.send(sent.append)
    assert (len(sent), broker.connected) == (2, 1)


def test_a_forked_process_uses_its_own_connection(hints: Hints, broker: Broker) -> None:
    hints.send(lambda _: None)
    hints._lock.acquire()
    pid = os.fork()
    if pid == 0:
        hints.send(lambda _: None)
        os._exit(broker.connected)
    hints._lock.release()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 2
