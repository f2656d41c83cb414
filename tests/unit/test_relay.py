"""The relay: it logs a line for each outage, also for a second one of the same kind."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from backend.relay.relay import Relay

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest


class Nothing:
    """A listener or a publisher that does nothing and succeeds."""

    notified = True

    def __init__(self, *_: object) -> None: ...
    def wait(self, _seconds: float) -> None: ...
    def takes_messages(self) -> bool:
        return True

    def attend(self) -> None: ...
    def close(self) -> None: ...


class Scripted(Relay):
    """Publishes as its script says; False is an outage. Nothing is due after the script's end."""

    def __init__(self, script: Sequence[bool]) -> None:
        nothing: Any = Nothing
        super().__init__(nothing, nothing)
        self._script = iter(script)
        self.ended = threading.Event()
        report = self._loop._pause_after
        self._loop._pause_after = lambda error: report(error) and 0.01

    def _publish_due(self, _publisher: object) -> float | None:
        step = next(self._script, None)
        if step is None:
            self.ended.set()
        if step is False:
            raise TimeoutError
        return 0 if step else None


def test_a_second_outage_of_the_same_kind_is_logged_too(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "backend.telemetry.outage"):
        running = Scripted([True, False, False, True, False, True])
        running.start()
        assert running.ended.wait(10)
        running.close()
    away, back = "the broker cannot be reached", "the broker can be used again"
    beginnings = [message.split(" (")[0].split(":")[0] for message in caplog.messages]
    assert beginnings == [away, back, away, back]
