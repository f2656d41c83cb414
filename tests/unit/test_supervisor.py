"""The whole stack in one terminal: told to stop while it starts, it stops in order."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from backend.supervisor import Manager

if TYPE_CHECKING:
    from collections.abc import Iterator

SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143}


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Told(Manager):
    """Gets a signal before it knows any process's number."""

    number = signal.SIGTERM

    def _start(self) -> None:
        super()._start()
        os.kill(os.getpid(), self.number)


@pytest.mark.timeout(30)
@pytest.mark.parametrize(("number", "code"), SIGNALS.items())
def test_a_signal_while_the_processes_start_stops_them_all(
    number: signal.Signals, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    manager = Told()
    manager.number = number
    for name in ("one", "two"):
        manager.add_process(name, "exec sleep 60")
    manager.loop()
    assert manager.returncode == code
    assert capsys.readouterr().out.count("stopped (rc=-15)") == 2
