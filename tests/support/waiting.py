"""Waiting for a condition instead of sleeping."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_INTERVAL = 0.05


def eventually(condition: Callable[[], T | None], timeout: float, what: str) -> T:
    """Ask `condition` every 50 ms and return its first truthy value.

    `timeout` is in seconds; `what` says what is waited for ("the task is done").
    Raises AssertionError naming `what` and the last value when the time is up. An
    exception of `condition` is not caught. `condition` is asked at least once.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(
                f"waited {timeout:g} s in vain until {what}; last value: {value!r}"
            )
        time.sleep(_INTERVAL)
