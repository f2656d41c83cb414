"""An outage: one line for each reason, one at its end, and the pauses between attempts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backend.telemetry.outage import LONGEST_PAUSE, Outage, Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

AWAY = Reason("away", "it is away")
LOGIN = Reason("login", "it refuses the login", needs_operator=True)
READ_ONLY = Reason("read-only", "it is read-only", recovery_seconds=60)


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def outage(clock: Clock, caplog: pytest.LogCaptureFixture) -> Iterator[Outage]:
    with caplog.at_level("INFO", "backend.telemetry.outage"):
        yield Outage("it is back", clock)


def test_each_reason_is_logged_once_for_all_parts_of_a_process(
    outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    for reason in (AWAY, AWAY, LOGIN, AWAY, LOGIN):
        outage.failed(reason, "relay")
        outage.failed(reason, "replies")
    assert caplog.messages == ["it is away", "it refuses the login"]


def test_an_outage_ends_when_every_part_that_failed_has_succeeded(
    outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    outage.failed(AWAY, "relay")
    outage.failed(AWAY, "replies")
    outage.succeeded("replies")
    outage.succeeded("inspector")  # never failed
    assert outage.failing
    assert caplog.messages == ["it is away"]
    outage.succeeded("relay")
    outage.succeeded("relay")
    assert not outage.failing
    outage.failed(AWAY, "relay")
    assert caplog.messages == ["it is away", "it is back", "it is away"]


def test_the_pauses_grow_only_in_outages_that_need_an_operator(
    outage: Outage, clock: Clock
) -> None:
    pauses = []
    for _ in range(8):
        pauses.append(outage.failed(LOGIN, "relay"))
        clock.now += pauses[-1]
    assert pauses == [1, 1, 2, 4, 8, 16, LONGEST_PAUSE, LONGEST_PAUSE]
    assert outage.failed(AWAY, "relay") == 1


def test_a_partly_working_server_is_back_when_no_request_failed_for_a_minute(
    outage: Outage, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5):
        outage.failed(READ_ONLY)
        clock.now += 59
        outage.succeeded()
    assert caplog.messages == ["it is read-only"]
    clock.now += 1
    outage.succeeded()
    assert caplog.messages == ["it is read-only", "it is back"]
