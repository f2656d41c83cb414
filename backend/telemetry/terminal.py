"""Formats events for a terminal, and writes the output of `tasks-api up`.

The processes of `up` print JSON lines into its pipes, as they do everywhere but on a terminal. If
the output of `up` is a terminal, it prints them as text, else unchanged.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from structlog.dev import Column, ConsoleRenderer, KeyValueColumnFormatter

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from structlog.typing import ExceptionRenderer, Processor

# Colours of the 256 that differ about as much from black as from white.
GREY: Final = 243
LEVELS: Final = {"debug": GREY, "warning": 130, "error": 196, "critical": 196}
NAMES: Final = (63, 28, 30, 132, 98, 64)
NAME_WIDTH = 7

# What every event of ours has (telemetry/logs.py).
_KEYS: Final = ("event", "level", "logger", "timestamp")


def coloured() -> bool:
    """Return whether standard output shows colours."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def _paint(text: str, colour: int) -> str:
    return f"\x1b[38;5;{colour}m{text}\x1b[0m" if coloured() else text


def renderer(write_traceback: ExceptionRenderer) -> Processor:
    """Return the function that makes a line from an event: time, name, level, text, the rest."""
    grey = f"\x1b[38;5;{GREY}m" if coloured() else ""
    rest = KeyValueColumnFormatter(grey, grey, "\x1b[0m" if coloured() else "", str)
    line = ConsoleRenderer(
        columns=[
            Column("", rest),
            Column("timestamp", _show_time),
            Column("logger", _show_name),
            Column("level", _show_level),
            Column("event", _show_event),
        ],
        # Otherwise structlog uses rich if it is installed, which prints every local variable.
        exception_formatter=write_traceback,
    )

    def render(log: object, method: str, shown: MutableMapping[str, Any]) -> str:
        if "task_id" in shown and str(shown["task_id"]) in str(shown["event"]):
            del shown["task_id"]
        return line(log, method, shown)

    return render


def _show_time(key: str, value: object) -> str:  # noqa: ARG001 - structlog's signature
    return _paint(datetime.fromisoformat(str(value)).astimezone().strftime("%H:%M:%S"), GREY)


def _show_name(key: str, value: object) -> str:  # noqa: ARG001 - as above
    text = str(value)
    colour = NAMES[sum(f"{text[:1]}{text[-1:]}".encode()) % len(NAMES)]  # differs for our names
    return _paint(text.ljust(NAME_WIDTH), colour)


def _show_level(key: str, value: object) -> str:  # noqa: ARG001 - as above
    text = str(value)
    return "" if text == "info" else _paint(f"{text}:", LEVELS.get(text, GREY))


def _show_event(key: str, value: object) -> str:  # noqa: ARG001 - as above
    return str(value)


def event(name: str, text: str, **more: object) -> dict[str, Any]:
    """Return an event that does not come from a logger."""
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return {"event": text, **more, "logger": name, "level": "info", "timestamp": now}


def parse(line: str, process: str) -> dict[str, Any]:
    """Return the event that a process has printed; for any other text, one with that text."""
    try:
        found = json.loads(line)
        ours = isinstance(found, dict) and all(isinstance(found.get(key), str) for key in _KEYS)
        if ours:
            datetime.fromisoformat(found["timestamp"])
    except (ValueError, RecursionError):
        ours = False
    return {**(found if ours else event(process, line)), "process": process}


class Output:
    """The standard output of `up`, for several threads: each line whole, JSON or text.

    `closed` is set when nothing reads the output any more.
    """

    def __init__(self) -> None:
        self.closed = threading.Event()
        self._lock = threading.Lock()
        # A traceback is text already when it comes from another process.
        self._render = renderer(lambda *_: None) if sys.stdout.isatty() else None

    def write(self, text: str) -> None:
        """Write a text that ends with a line end."""
        try:
            with self._lock:
                sys.stdout.write(text)
                sys.stdout.flush()
        except OSError:
            self.closed.set()

    def flush(self) -> None:
        """Do nothing: `write` does it."""

    def show(self, shown: dict[str, Any]) -> None:
        """Write an event."""
        if self._render is None:
            self.write(json.dumps(shown) + "\n")
        else:
            shown.pop("process", None)
            self.write(str(self._render(None, "", shown)) + "\n")
