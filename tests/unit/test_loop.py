"""Background threads: turns, errors, pauses and stopping."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from backend.errors import StoreUnavailable
from backend.loop import Loop, start_thread
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest


def failing(*errors: Exception) -> tuple[Callable[[], None], list[float]]:
    """Return a turn that raises these errors and then succeeds, and the times of its calls."""
    left, calls = list(errors), list[float]()

    def turn() -> None:
        calls.append(time.monotonic())
        if left:
            raise left.pop(0)
        time.sleep(0.01)  # the work

    return turn, calls


def test_an_unexpected_error_is_logged_once_and_the_loop_continues(
    caplog: pytest.LogCaptureFixture,
) -> None:
    turn, calls = failing(ValueError("odd"))
    loop = Loop("clerk", "counts", turn)
    loop.retry_seconds = 0.01
    loop.start()
    eventually(lambda: len(calls) > 2, 5, "the loop has run more turns")
    assert loop.close()
    assert caplog.messages == ["an error in the thread clerk; it continues"]


def test_an_error_that_was_already_reported_is_not_logged_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    turn, calls = failing(StoreUnavailable(), TimeoutError())
    loop = Loop("clerk", "counts", turn, pause_after=lambda _: 0.2)
    loop.retry_seconds = 0.01
    loop.start()
    eventually(lambda: len(calls) > 2, 5, "the loop has run more turns")
    assert loop.close()
    assert caplog.messages == []
    assert calls[2] - calls[1] >= 0.2, "it pauses as long as the error says"


def test_the_first_turn_comes_after_the_interval_and_stopping_ends_a_pause() -> None:
    turn, calls = failing()
    loop = Loop("clerk", "counts", turn, interval=60)
    loop.start()
    begin = time.monotonic()
    assert loop.close()
    assert time.monotonic() - begin < 5
    assert calls == []


def test_a_loop_that_does_not_end_is_not_waited_for_without_limit() -> None:
    go = threading.Event()
    loop = Loop("clerk", "counts", go.wait)
    loop.start()
    assert not loop.close(0.05)
    go.set()
    assert loop.close()


def test_the_start_of_a_thread_is_logged_with_its_work(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG", "backend.loop"):
        start_thread("clerk", "counts", lambda: None).join()
    assert caplog.messages == ["thread clerk: counts"]
