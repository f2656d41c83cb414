"""How long the attempts of each task take, on average, in this process."""

from __future__ import annotations

# An attempt that takes longer is long: it gets a message and a transaction of its own, which cost
# little in comparison.
LONG_SECONDS = 0.05
# The weight of the newest attempt.
WEIGHT = 0.3

_seconds: dict[str, float] = {}


def note(name: str, seconds: float) -> None:
    """Add the duration of an attempt to the average of its task; one thread only."""
    _seconds[name] = (1 - WEIGHT) * _seconds.get(name, seconds) + WEIGHT * seconds


def average(name: str, unknown: float) -> float:
    """Return the average duration of a task's attempts in seconds, or `unknown`."""
    return _seconds.get(name, unknown)


def long_tasks() -> list[str]:
    """Return the names of the tasks whose attempts take long in this process."""
    return sorted(name for name, seconds in list(_seconds.items()) if seconds > LONG_SECONDS)
