"""Reading from the broker: heartbeats continue under load, and no message is left unread."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

from backend.api.event_drain import EventDrain

if TYPE_CHECKING:
    from collections.abc import Callable

    from kombu import Connection


class Fake:
    """A connection with this number of messages to read."""

    def __init__(self, messages: int) -> None:
        self.messages = messages
        self.beats = 0

    def drain_events(self, timeout: float) -> None:
        assert timeout > 0
        if not self.messages:
            raise TimeoutError
        self.messages -= 1

    def heartbeat_check(self) -> None:
        self.beats += 1


def on(fake: Fake, clock: Callable[[], float] = time.monotonic) -> EventDrain:
    return EventDrain(cast("Connection", fake), clock)


def test_heartbeats_are_sent_on_time_under_a_constant_flow_of_messages() -> None:
    now = 100.0
    fake = Fake(1_000_000)
    handled = on(fake, lambda: now)
    for _ in range(100):
        now += 0.1
        assert handled.handle(1.0)
    assert 8 <= fake.beats <= 10


def test_all_received_messages_are_handled_up_to_a_limit() -> None:
    some, endless = Fake(5), Fake(1_000_000)
    on(some).handle_all()
    on(endless).handle_all()
    assert some.messages == 0
    assert endless.messages > 0
