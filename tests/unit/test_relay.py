"""The relay: a line for each outage, however often the same kind comes."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import TYPE_CHECKING

from backend.relay import relay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pytest


class Nothing:
    """A listener, a publisher, a reconciler: all that is asked of it is done."""

    def __init__(self, *_: object) -> None: ...
    def wait(self, _seconds: float) -> None: ...
    def takes_messages(self) -> bool:
        return True

    def attend(self) -> None: ...
    def close(self) -> None: ...
    def run(self) -> None: ...


def passes(*script: bool) -> Callable[..., list[object]]:
    """Publish as the script has it, False an outage; nothing is due after its end."""
    steps: Iterator[bool] = iter(script)

    def publish_due(*_: object) -> list[object]:
        step = next(steps, None)
        if step is None:
            time.sleep(0.01)
        if step is False:
            raise TimeoutError
        return [SimpleNamespace(args="{}")] if step else []

    return publish_due


def test_the_second_outage_of_a_kind_is_told_of_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(relay, "Publisher", Nothing)
    monkeypatch.setattr("backend.relay.relay.listen.OutboxListener", Nothing)
    monkeypatch.setattr("backend.telemetry.outage.RETRY_SECONDS", 0.01)
    script = (True, False, False, True, False, True)
    monkeypatch.setattr(relay.Relay, "_publish_due", passes(*script))
    with caplog.at_level("INFO", "backend.telemetry.outage"):
        running = relay.Relay()
        running.start()
        time.sleep(0.5)
        running.close()
    away, back = "the broker cannot be reached", "the broker can be used again"
    beginnings = [message.split(" (")[0].split(":")[0] for message in caplog.messages]
    assert beginnings == [away, back, away, back]
