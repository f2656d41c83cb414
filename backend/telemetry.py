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


def set_up_logging(level: str) -> None:
    """Send every logger of the process, those of libraries included, to standard output."""
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(allow=["task_id", "attempt", "worker", "count"]),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.PositionalArgumentsFormatter(),
    ]
    if on_terminal():
        colors = "NO_COLOR" not in os.environ
        render: list[Any] = [structlog.dev.ConsoleRenderer(colors=colors)]
    else:
        render = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                "line": {
                    "()": structlog.stdlib.ProcessorFormatter,
                    "foreign_pre_chain": shared,
                    "processors": [
                        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                        *render,
                    ],
                }
            },
            "handlers": {
                "out": {
                    "class": "logging.StreamHandler",
                    "stream": "ext://sys.stdout",
                    "formatter": "line",
                }
            },
            "root": {"handlers": ["out"], "level": level},
            # Their own handlers and access lines would double ours.
            "loggers": {
                "uvicorn": {"handlers": [], "propagate": True},
                "uvicorn.access": {"handlers": [], "propagate": False},
                # Their lines about each task come without its attempt; claim.py's have it.
                "celery.worker.strategy": {"level": "WARNING"},
                "celery.app.trace": {"level": "CRITICAL"},
                "alembic": {"level": "WARNING"},
                "amqp": {"level": "WARNING"},
                "kombu": {"level": "WARNING"},
            },
        }
    )
