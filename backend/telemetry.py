"""Logs: one line an event, the same shape in every process.

Text on a terminal, JSON elsewhere. Code logs with the standard `logging`; what belongs to a task
passes `extra=about(task_id, attempt)`.
"""

from __future__ import annotations

import logging.config
import os
import sys
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from collections.abc import Mapping


def about(task_id: str, attempt: int) -> Mapping[str, object]:
    """Return the `extra` of a log line that belongs to a task."""
    return {"task_id": task_id, "attempt": attempt}


def on_terminal() -> bool:
    """Tell whether a person reads this process's output.

    FORCE_COLOR stands for a terminal behind a pipe: `tasks-api up` sets it for its children.
    """
    return sys.stdout.isatty() or bool(os.environ.get("FORCE_COLOR"))


# Levels of loggers that say less than our own lines, or the same again.
_LOGGERS = {
    "uvicorn": {"handlers": [], "propagate": True},
    "uvicorn.access": {"handlers": [], "propagate": False},
    # Their lines about each task come without its attempt; claim.py's have it.
    "celery.worker.strategy": {"level": "WARNING"},
    "celery.app.trace": {"level": "CRITICAL"},
    "alembic": {"level": "WARNING"},
    "amqp": {"level": "WARNING"},
    "kombu": {"level": "WARNING"},
    # On Redis, at a stop: a message that came after its consumer had gone is put back.
    "kombu.transport.virtual.base": {"level": "ERROR"},
}


def set_up_logging(level: str) -> None:
    """Send every logger of the process, those of libraries included, to standard output."""
    line = {
        "()": structlog.stdlib.ProcessorFormatter,
        "foreign_pre_chain": [
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.ExtraAdder(allow=["task_id", "attempt"]),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.stdlib.PositionalArgumentsFormatter(),
        ],
        "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_render()],
    }
    out = {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "line"}
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"line": line},
            "handlers": {"out": out},
            "root": {"handlers": ["out"], "level": level},
            "loggers": _LOGGERS,
        }
    )


def _render() -> list[Any]:
    if on_terminal():
        return [structlog.dev.ConsoleRenderer(colors="NO_COLOR" not in os.environ)]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
