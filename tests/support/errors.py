"""Exceptions that a task may raise, some of which Celery or billiard handle themselves."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NoReturn, cast

import billiard.exceptions as billiard
import celery.exceptions as celery

if TYPE_CHECKING:
    from collections.abc import Callable


class Unreadable(Exception):
    """Has no text."""

    def __str__(self) -> NoReturn:
        """Raise."""
        raise RuntimeError("no text")


class NoText(Exception):
    """Its __str__ returns no text."""

    def __str__(self) -> str:
        """Return a number."""
        return cast("str", 7)


class Unpicklable(Exception):
    """Cannot be unpickled from its arguments, and has an attribute that cannot be pickled."""

    def __init__(self, one: str, two: object) -> None:
        super().__init__(one)
        self.two = two


def deep() -> BaseException:
    return deep()


ERRORS: dict[str, Callable[[], BaseException]] = {
    "MemoryError": lambda: MemoryError("Unable to allocate 8 EiB"),
    "SystemExit": lambda: SystemExit(2),
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "asyncio.CancelledError": asyncio.CancelledError,
    "celery.Ignore": lambda: celery.Ignore("mine"),
    "celery.Reject": lambda: celery.Reject("mine"),
    "celery.Retry": lambda: celery.Retry("mine"),
    "celery.TaskRevokedError": lambda: celery.TaskRevokedError("mine"),
    "celery.SoftTimeLimitExceeded": lambda: celery.SoftTimeLimitExceeded("mine"),
    "celery.TimeLimitExceeded": lambda: celery.TimeLimitExceeded("mine"),
    "celery.WorkerShutdown": lambda: celery.WorkerShutdown("mine"),
    "celery.WorkerTerminate": lambda: celery.WorkerTerminate("mine"),
    "billiard.Terminated": lambda: billiard.Terminated("mine"),
    "an unpicklable error": lambda: Unpicklable("mine", lambda: None),
    "an error without text": ValueError,
    "an error whose text raises": Unreadable,
    "an error whose text is no text": NoText,
    "an error with 30 MB of text": lambda: ValueError("x" * 30_000_000),
    "a group of errors": lambda: BaseExceptionGroup("mine", [SystemExit(2)]),
    "RecursionError": deep,
}
