"""The text of an attempt's error, and the delay before the next attempt."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import psycopg2
from celery.exceptions import TimeLimitExceeded, WorkerLostError
from psycopg2 import errors as postgresql
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from backend.db.session import is_away
from backend.errors import Error, StoreNotWritable, TimeUp

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backend.task import Task

# The kinds of constraints, by PostgreSQL's errors about them.
_CONSTRAINTS: Mapping[type[BaseException], str] = {
    postgresql.UniqueViolation: "unique constraint",
    postgresql.ForeignKeyViolation: "foreign key",
    postgresql.CheckViolation: "check constraint",
    postgresql.ExclusionViolation: "exclusion constraint",
}


def backoff(task: Task, attempt: int) -> float:
    """Return the seconds to wait after an attempt of a task has failed.

    It is a random time, so that tasks that failed together are not tried again together.
    """
    first, factor, cap = task.backoff
    try:
        longest = min(first * factor ** (attempt - 1), cap)
    except OverflowError:
        longest = cap
    return longest * random.uniform(0.5, 1)  # noqa: S311 - it protects nothing


def error_type(error: BaseException) -> str:
    """Return the name of an error's class; of a statement's error, that of PostgreSQL's."""
    if isinstance(error, SQLAlchemyError):
        error = getattr(error, "orig", None) or error
    return type(error).__name__[:200]


def error_text(error: BaseException | str) -> str:
    """Return an error as one line for clients, without queries, hosts or what cannot be stored.

    Never raises, even if the text of the error cannot be read.
    """
    try:
        line = _line(_reason(error))
    except Exception:  # noqa: BLE001 - as said
        line = f"{type(error).__name__}, whose text cannot be read"
    return line[:2000] or type(error).__name__


def _line(text: str) -> str:
    # Cut first: a text may have megabytes.
    line = " ".join(text[:10_000].replace("\x00", "").split())
    return line.encode("utf-8", "replace").decode()


def _reason(error: BaseException | str) -> str:
    if isinstance(error, str):
        text = error
    elif isinstance(error, WorkerLostError):
        text = "The process running the task was lost"
    elif isinstance(error, TimeLimitExceeded):
        text = _time_limit(*error.args)
    elif isinstance(error, StoreNotWritable):
        text = "The database was read-only, or its disk was full"
    elif is_away(error):
        text = "Database connection failed"
    elif isinstance(error, (SQLAlchemyError, psycopg2.Error)):
        text = _database_error(error)
    else:
        text = _line(str(error))
        if text and not isinstance(error, (Error, TimeUp)):  # ours are sentences
            text = f"{type(error).__name__}: {text}"
    return text


def _time_limit(seconds: float, line: str = "") -> str:
    """Describe a time limit; `line`: where the task was."""
    text = f"The task took longer than its time limit of {seconds:g} seconds"
    return f"{text}; it was in {line}" if line else text


def _database_error(error: SQLAlchemyError | psycopg2.Error) -> str:
    """Describe an error of a statement; of its text, which may have values, only the constraint."""
    cause: BaseException = getattr(error, "orig", None) or error
    if violated := _violated(cause):
        return f"IntegrityError: {violated}"
    named = cause if isinstance(error, OperationalError) else error
    return f"Database error: {type(named).__name__}"


def _violated(error: BaseException) -> str:
    """Return which constraint was violated; "" if PostgreSQL named none."""
    diagnostics = getattr(error, "diag", None)
    column = getattr(diagnostics, "column_name", None)
    name = getattr(diagnostics, "constraint_name", None)
    if isinstance(error, postgresql.NotNullViolation) and column:
        return f'column "{column}" must not be null'
    if isinstance(error, psycopg2.IntegrityError) and name:
        kind = _CONSTRAINTS.get(type(error), "constraint")
        return f'{kind} "{name}" violated'
    return ""
