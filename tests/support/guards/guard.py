"""The class of guards."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Guard:
    """A piece of code that keeps a behaviour, and the tests that must fail without it.

    `holds` is the behaviour. In `file`, `code` is replaced with `without`; then `tests` must fail.
    """

    holds: str
    file: str
    code: str
    without: str
    tests: str
