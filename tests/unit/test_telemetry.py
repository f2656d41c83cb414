"""Logs: one line for each event, as JSON unless on a terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from backend.telemetry.logs import short_name
from tests.support.stack import ROOT

if TYPE_CHECKING:
    from pathlib import Path


def lines(code: str, **environment: str) -> list[str]:
    """Run code that logs in a new process; return the lines it printed."""
    done = subprocess.run(
        [sys.executable, "-c", f"import logging\nfrom backend.telemetry.logs import *\n{code}"],
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
        "logger": "a",
        "task_id": "the-id",
        "attempt": 3,
    }


def test_a_line_about_an_outage_names_the_affected_process() -> None:
    (line,) = lines(
        "from backend.telemetry.outage import Outage, Reason\n"
        "set_up_logging('INFO', 'worker')\n"
        "Outage('it is back').failed(Reason('away', 'it is away'))"
    )
    event = json.loads(line)
    assert (event["logger"], event["event"]) == ("worker", "it is away")


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


def test_a_lost_child_or_broker_is_one_line_without_celerys_traceback() -> None:
    (line,) = lines(
        "set_up_logging('INFO')\n"
        "try:\n    1 / 0\n"
        "except ZeroDivisionError:\n"
        "    logging.getLogger('celery.worker.request').exception('lost')"
    )
    event = json.loads(line)
    assert event["event"] == "lost"
    assert "exception" not in event


def test_records_below_the_level_are_not_logged() -> None:
    logged = lines(
        "set_up_logging('WARNING')\nlogging.info('no')\nlogging.warning('yes')\n"
        "logging.getLogger('uvicorn.error').error('uvicorn')\n"
        "logging.getLogger('uvicorn.access').info('GET /')"
    )
    assert [json.loads(line)["event"] for line in logged] == ["yes", "uvicorn"]


@pytest.mark.parametrize(
    ("logger", "name"),
    [
        ("backend.relay.relay", "relay"),
        ("backend.tasks.word_count", "tasks"),
        ("backend.telemetry.outage", "flower"),
        ("backend.batcher", "flower"),
        ("uvicorn.error", "api"),
        ("celery.worker.consumer.connection", "worker"),
        ("urllib3.connectionpool", "urllib3"),
        ("root", "root"),
    ],
)
def test_a_logger_has_a_short_name(logger: str, name: str) -> None:
    assert short_name(logger, "flower") == name


SECRET = "hunter2-secret"
# Fails with the secret in a local variable, in SQL, in its parameters, in PostgreSQL's words and in
# a rejected argument; each is one of a chain or a group.
FAILURES = f"""
set_up_logging('INFO')
import psycopg2, pydantic, sqlalchemy.exc
from sqlalchemy.exc import IntegrityError, PendingRollbackError
class Text(pydantic.BaseModel):
    content: int
def rejected(password):
    Text.model_validate({{'content': password}})
def refused(password):
    original = psycopg2.errors.UniqueViolation('DETAIL: Key (a)=(' + password + ') exists')
    try:
        raise original
    except psycopg2.Error as error:
        sql = 'INSERT INTO x VALUES (' + password + ')'
        raise IntegrityError(sql, {{'p': password}}, error) from error
def chained(password):
    try:
        refused(password)
    except IntegrityError as error:
        raise PendingRollbackError('rolled back. Original exception was: ' + str(error))
errors = []
for fail in (rejected, refused, chained):
    try:
        fail('{SECRET}'.upper())
    except Exception as error:
        errors.append(error)
try:
    raise ExceptionGroup('three of them', errors)
except ExceptionGroup:
    logging.exception('it failed')
"""


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "JSON"])
def test_a_traceback_shows_no_values(tmp_path: Path, *, terminal: bool) -> None:
    # A fake `rich`: with it structlog would print every local variable.
    rich = tmp_path / "rich"
    rich.mkdir()
    (rich / "__init__.py").touch()
    (rich / "console.py").write_text("class Console:\n    pass\n")
    (rich / "traceback.py").write_text(
        "class Traceback:\n"
        "    from_exception = classmethod(lambda *args, **kwargs: exit('rich was used'))\n"
    )
    code = f"import sys\nsys.stdout.isatty = lambda: {terminal}\n{FAILURES}"
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    logged = "\n".join(lines(code, PYTHONPATH=path, NO_COLOR="1")).replace("\\n", "\n")
    assert SECRET.upper() not in logged
    assert "rich was used" not in logged
    assert "it failed" in logged
    assert "ExceptionGroup: three of them (3 sub-exceptions)" in logged
    assert "pydantic_core._pydantic_core.ValidationError: content: Input should be a" in logged
    assert "sqlalchemy.exc.IntegrityError: UniqueViolation" in logged
    assert "psycopg2.errors.UniqueViolation: " in logged
    assert "sqlalchemy.exc.PendingRollbackError: rolled back." in logged
    assert "in refused" in logged
    assert "The above exception was the direct cause" in logged


LONG = {
    "a text": "raise ValueError('x' * 30_000_000)",
    "a note": "error = ValueError('x'); error.add_note('x' * 30_000_000); raise error",
    "a cause": "raise KeyError('y') from ValueError('x' * 30_000_000)",
    "a group": "raise ExceptionGroup('x', [ValueError('x' * 3_000) for _ in range(1_000)])",
    "a line of code": "compile('x' * 1_000_000 + ' x', 'file', 'exec')",
}


@pytest.mark.parametrize("what", LONG)
def test_a_long_traceback_is_truncated_whichever_part_is_long(what: str) -> None:
    (line,) = lines(
        "set_up_logging('INFO')\n"
        f"try:\n    {LONG[what]}\n"
        "except Exception:\n    logging.exception('it failed')"
    )
    shown = json.loads(line)["exception"]
    assert len(shown) < 21_000
    assert "Traceback (most recent call last)" in shown
    assert " characters ... " in shown


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_characters_the_terminal_cannot_show_are_printed_as_escapes(encoding: str) -> None:
    printed = lines(
        "print_any_text()\nprint('1 \\u2026')\n"
        "set_up_logging('INFO')\nlogging.info('2 \\u6f22 \\ud800')",
        PYTHONIOENCODING=encoding,
    )
    assert json.loads(printed[1])["event"] == "2 \u6f22 \ud800"
    assert printed[0] == ("1 …" if encoding == "utf-8" else "1 \\u2026")
