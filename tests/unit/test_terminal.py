"""Log lines on a terminal, and how `tasks-api up` passes on the lines of its processes."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING

import pytest

from backend.telemetry import terminal
from backend.telemetry.terminal import Output, event, parse

if TYPE_CHECKING:
    from collections.abc import Callable

LOGGED = {
    "event": "cannot publish",
    "level": "warning",
    "logger": "relay",
    "timestamp": "2026-11-26T18:57:01.250000Z",
    "task_id": "the-id",
}


@pytest.fixture
def shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], str]:
    """Give a function that returns how a terminal shows a line of the process api."""

    def show(line: str) -> str:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        Output().show(parse(line, "api"))
        return capsys.readouterr().out

    return show


def test_a_terminal_line_has_one_time_a_name_and_the_text(
    shown: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    line = shown(json.dumps(LOGGED))
    assert re.fullmatch(r"\d\d:\d\d:01 relay   warning: cannot publish task_id=the-id\n", line)
    line = shown(json.dumps({**LOGGED, "event": "x[the-id] raised"}))
    assert line.endswith("relay   warning: x[the-id] raised\n")
    without_task = {name: value for name, value in LOGGED.items() if name != "task_id"}
    line = shown(json.dumps({**without_task, "event": "x: None"}))
    assert line.endswith("relay   warning: x: None\n")
    line = shown(json.dumps({**LOGGED, "level": "info", "exception": "Traceback\nKeyError"}))
    assert line.endswith("relay   cannot publish task_id=the-id\nTraceback\nKeyError\n")
    assert re.fullmatch(r"\d\d:\d\d:\d\d api     printed by a task\n", shown("printed by a task"))


def test_colours_are_used_unless_no_color_is_set(
    shown: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[38;5;130mwarning:\x1b[0m" in shown(json.dumps(LOGGED))


@pytest.mark.parametrize(
    "line",
    [
        "text",
        "",
        '{"event": "not ours"}',
        "[" * 100_000,
        "NaN",
        "3",
        '"text"',
        "\x1b[1m\udcff",
        json.dumps({**LOGGED, "timestamp": "yesterday"}),
        json.dumps({**LOGGED, "logger": 3}),
    ],
    ids=range(10),
)
def test_output_that_is_not_a_log_line_becomes_one(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Output().show(parse(line, "worker"))
    found = json.loads(capsys.readouterr().out)
    assert found.pop("timestamp").endswith("Z")
    assert found == {"event": line, "level": "info", "logger": "worker", "process": "worker"}


def test_a_log_line_is_kept_and_gets_the_name_of_its_process() -> None:
    assert parse(json.dumps(LOGGED), "api") == {**LOGGED, "process": "api"}
    assert event("system", "ready", api="http://x").keys() > {"event", "api", "timestamp"}


def _contrast(colour: int, background: float) -> float:
    """Return the contrast of WCAG 2 between a colour of the 256 and black (0) or white (1)."""
    steps, number = (0, 95, 135, 175, 215, 255), colour - 16
    grey = [8 + 10 * (colour - 232)] * 3
    parts = grey if colour >= 232 else [steps[number // each % 6] for each in (36, 6, 1)]
    linear = [
        part / 255 / 12.92 if part <= 10 else ((part / 255 + 0.055) / 1.055) ** 2.4
        for part in parts
    ]
    light = sum(a * b for a, b in zip((0.2126, 0.7152, 0.0722), linear, strict=True)) + 0.05
    return max(light, background + 0.05) / min(light, background + 0.05)


def test_each_colour_is_readable_on_black_and_on_white() -> None:
    for colour in {*terminal.LEVELS.values(), *terminal.NAMES}:
        assert _contrast(colour, 0.0) > 3.9
        assert _contrast(colour, 1.0) > 3.9
