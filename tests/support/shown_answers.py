"""Answers that the documents show, compared with those of the service."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_WORKER = re.compile(r"[a-z_]+-[0-9a-f]+@\S+")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_KINDS = (UUID, TIME, _WORKER)


def values(text: str) -> list[Any]:
    """Return the JSON values in the output of a command, ignoring other text."""
    decoder = json.JSONDecoder()
    found: list[Any] = []
    place = 0
    while (start := text.find("{", place)) >= 0:
        try:
            value, place = decoder.raw_decode(text, start)
        except ValueError:
            place = start + 1
        else:
            found.append(value)
    return found


# Pairs of states that a task may have at the moment of a request.
_MOMENTARY = ({"PENDING", "STARTED"}, {"ACTIVE", "RESERVED"})


def differences(expected: object, actual: object, place: str = "") -> Iterator[str]:
    """Yield the differences between an answer and the document.

    Ids, times, names of workers and counts may differ.
    """
    if isinstance(expected, dict) and isinstance(actual, dict) and list(expected) == list(actual):
        for key, value in expected.items():
            yield from differences(value, actual[key], f"{place}/{key}")
    elif isinstance(expected, list) and isinstance(actual, list) and (expected or not actual):
        for value in actual:
            yield from differences(expected[-1], value, f"{place}/*")
    elif not _like(expected, actual, place):
        yield f"{place}: is {actual!r} instead of {expected!r}"


def _like(expected: object, actual: object, place: str) -> bool:
    if isinstance(expected, str) and isinstance(actual, str):
        return (
            expected == actual
            or any(kind.fullmatch(expected) and kind.fullmatch(actual) for kind in _KINDS)
            or any({expected, actual} <= words for words in _MOMENTARY)
            or place == "/messages/*/content"
        )
    if place == "/status":
        return expected == actual
    return (isinstance(expected, int) and isinstance(actual, int)) or expected is actual is None
