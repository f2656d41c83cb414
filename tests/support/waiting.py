"""Waiting for a condition instead of sleeping."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_INTERVAL = 0.05


def eventually(condition: Callable[[], T | None], timeout: float, what: str) -> T:
    """Call `condition` every 50 ms and return its first truthy value.

    `timeout` is in seconds. `what` states the condition ("the task has ended"). After the timeout
    an AssertionError names `what` and the last value. Exceptions of `condition` are not caught.
    `condition` is called at least once.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"not true within {timeout:g} s: {what}; last value: {value!r}")
        time.sleep(_INTERVAL)
