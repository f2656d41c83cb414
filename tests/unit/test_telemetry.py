"""Logs: one line an event, JSON away from a terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from tests.support.stack import ROOT


def lines(code: str, **environment: str) -> list[str]:
    """Run code that logs in a process of its own, and return the lines it printed."""
    done = subprocess.run(
        [sys.executable, "-c", f"import logging\nfrom backend.telemetry import *\n{code}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_an_event_is_one_json_line_with_task_and_attempt() -> None:
    (line,) = lines(
        "set_up_logging('INFO')\n"
        "logging.getLogger('a.b').warning('%s of\\n%d', 1, 2, extra=about('the-id', 3))"
    )
    event = json.loads(line)
    assert event.pop("timestamp").endswith("Z")
    assert event == {
        "event": "1 of\n2",
        "level": "warning",
        "logger": "a.b",
        "task_id": "the-id",
        "attempt": 3,
    }


def test_an_event_without_a_task_has_no_task() -> None:
    (line,) = lines("set_up_logging('INFO')\nlogging.info('hello', extra={'password': 'x'})")
    assert {"event", "level", "logger", "timestamp"} == json.loads(line).keys()


def test_an_exception_is_in_the_same_line() -> None:
    (line,) = lines(
        "set_up_logging('INFO')\n"
        "try:\n    1 / 0\n"
        "except ZeroDivisionError:\n    logging.exception('it failed')"
    )
    event = json.loads(line)
    assert event["event"] == "it failed"
    assert event["exception"].startswith("Traceback (most recent call last):\n")
    assert event["exception"].endswith("ZeroDivisionError: division by zero")


def test_what_is_below_the_level_is_left_out() -> None:
    logged = lines(
        "set_up_logging('WARNING')\nlogging.info('no')\nlogging.warning('yes')\n"
        "logging.getLogger('uvicorn.error').error('uvicorn')\n"
        "logging.getLogger('uvicorn.access').info('GET /')"
    )
    assert [json.loads(line)["event"] for line in logged] == ["yes", "uvicorn"]


def test_a_person_reads_text() -> None:
    (line,) = lines(
        "set_up_logging('INFO')\nlogging.getLogger('a').info('hello', extra=about('the-id', 3))",
        FORCE_COLOR="1",
        NO_COLOR="1",
    )
    assert "hello" in line
    assert "task_id=the-id" in line
    assert "\x1b" not in line
