"""Logs: one line for each event, in the same format in every process.

Text on a terminal (terminal.py), JSON elsewhere. Code logs with the standard `logging`; what
belongs to a task passes `extra=about(task_id, attempt)`. A traceback has no values: neither local
variables nor SQL with its parameters nor rejected arguments.
"""

from __future__ import annotations

import io
import logging.config
import sys
import traceback
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg2
import structlog
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError, StatementError

from backend.telemetry import terminal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import TextIO

    from backend.telemetry.terminal import Output

    ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


# The limits of an error's own text in a log, and of a whole traceback, in characters.
TEXT_LENGTH = 2_000
TRACEBACK_LENGTH = 20_000


def about(task_id: str, attempt: int) -> Mapping[str, object]:
    """Return the `extra` of a log line that belongs to a task."""
    return {"task_id": task_id, "attempt": attempt}


# Libraries whose lines have the name of a part of the service.
_PARTS = {"uvicorn": "api", "celery": "worker"}


def short_name(logger: str, process: str) -> str:
    """Return a logger's name in log lines: the part of the service, or the library.

    For example `relay` for backend.relay.publisher, `api` for uvicorn.error. Modules that belong to
    no part, such as backend.telemetry.outage, have the name of the process.
    """
    first, _, rest = logger.partition(".")
    if first == "backend":
        part, _, module = rest.partition(".")
        return part if module and part != "telemetry" else process
    return _PARTS.get(first, first)


# Settings of loggers whose lines repeat our own or are less useful.
_LOGGERS = {
    "uvicorn": {"handlers": [], "propagate": True},
    "uvicorn.access": {"handlers": [], "propagate": False},
    # Its line about each task has no attempt number; ours have it.
    "celery.worker.strategy": {"level": "WARNING"},
    # Its lines about the broker come with each try; broker/outage.py has one for each reason.
    "celery.worker.consumer.consumer": {"level": "ERROR"},
    "celery.worker.consumer.connection": {"level": "WARNING"},
    "flower": {"level": "ERROR"},
    # It asks workers that are still starting, and a broker that is away.
    "flower.inspector": {"level": "CRITICAL"},
    "tornado": {"level": "ERROR"},
    "alembic": {"level": "WARNING"},
    # A lost child or broker in one line: its tracebacks are of Celery's own calls.
    "celery.worker.request": {"filters": ["no traceback"]},
    "amqp": {"level": "WARNING"},
    "kombu": {"level": "WARNING"},
    # On Redis, at a stop: a message that came after its consumer had stopped is put back.
    "kombu.transport.virtual.base": {"level": "ERROR"},
}


def print_any_text() -> None:
    """Print characters that the terminal's encoding lacks as escapes, not raise an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # else a test's, or Celery's
            stream.reconfigure(errors="backslashreplace")


def set_up_logging(level: str, process: str = "system", stream: Output | None = None) -> None:
    """Send every logger of the process, those of libraries included, to standard output.

    `process` is the name of the process. `stream` replaces standard output if other code writes
    there too.
    """
    print_any_text()
    line = {
        "()": structlog.stdlib.ProcessorFormatter,
        "foreign_pre_chain": [
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            partial(_add_short_name, process),
            structlog.stdlib.ExtraAdder(allow=["task_id", "attempt"]),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.stdlib.PositionalArgumentsFormatter(),
        ],
        "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_render()],
    }
    out = {"class": "logging.StreamHandler", "formatter": "line", "stream": stream or sys.stdout}
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"line": line},
            "filters": {"no traceback": {"()": lambda: _drop_traceback}},
            "handlers": {"out": out},
            "root": {"handlers": ["out"], "level": level},
            "loggers": _LOGGERS,
        }
    )


def _drop_traceback(record: logging.LogRecord) -> bool:
    record.exc_info = None
    return True


def _add_short_name(process: str, _: object, __: str, event: dict[str, Any]) -> dict[str, Any]:
    event["logger"] = short_name(event["_record"].name, process)
    return event


def _render() -> list[Any]:
    if sys.stdout.isatty():
        return [terminal.renderer(_write_traceback)]
    return [
        structlog.processors.ExceptionRenderer(lambda exc_info: plain_traceback(exc_info[1])),
        structlog.processors.JSONRenderer(),
    ]


def _write_traceback(output: TextIO, exc_info: ExcInfo) -> None:
    output.write("\n" + plain_traceback(exc_info[1]))


def plain_traceback(error: BaseException) -> str:
    """Return an error's traceback as Python prints it, its chain and groups too, without values.

    Long texts are cut, and so is the whole: a task's error may have megabytes.
    """
    whole = traceback.TracebackException.from_exception(error)
    pending: list[tuple[Any, Any]] = [(whole, error)]
    for shown, real in pending:
        if shown is None:
            continue
        words = _words(real)
        # There is no public way to set the text of an error in a chain.
        shown._str = _cut(shown._str if words is None else words, TEXT_LENGTH)  # noqa: SLF001
        pending.append((shown.__cause__, real.__cause__))
        pending.append((shown.__context__, real.__context__))
        if isinstance(real, BaseExceptionGroup):
            pending += zip(shown.exceptions, real.exceptions, strict=True)
    return _cut("".join(whole.format()).rstrip("\n"), TRACEBACK_LENGTH)


def _cut(text: str, length: int) -> str:
    """Return the text; if it is longer than `length`, only its beginning and end."""
    if len(text) <= length:
        return text
    half = length // 2
    return f"{text[:half]} ... {len(text) - 2 * half} characters ... {text[-half:]}"


def _words(error: BaseException) -> str | None:
    """Return the text to print for an error whose own text has values; None for every other."""
    if isinstance(error, StatementError):
        return type(error.orig).__name__
    if isinstance(error, SQLAlchemyError):
        return str(error).split("Original exception was", 1)[0]
    if isinstance(error, psycopg2.Error):
        code = error.pgcode or ""
        about_data = code.startswith("22")  # such as: invalid input syntax for type uuid: "..."
        primary = None if about_data else error.diag.message_primary
        return f"{primary or 'no more is shown'} (SQLSTATE {code or 'unknown'})"
    if isinstance(error, ValidationError):
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        return "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults)
    return None
