"""What a guard is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Guard:
    """A guard: what it holds, where it stands, what takes it out, and the tests that must fail."""

    holds: str
    file: str
    code: str
    without: str
    tests: str
