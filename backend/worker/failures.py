"""The text of an attempt's error, and the delay before the next attempt."""

from __future__ import annotations

from celery.exceptions import TimeLimitExceeded, WorkerLostError
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from backend.db.session import is_away
from backend.errors import StoreNotWritable


def backoff(attempt: int) -> float:
    """Return the seconds to wait after the given attempt failed: 2, 4, 8, … 300."""
    return float(min(2**attempt, 300))


def error_text(error: BaseException | str) -> str:
    """Return an error as one line for clients, without queries, hosts or what cannot be stored.

    Never raises, even if the text of the error cannot be read.
    """
    try:
        # Cut first: a text may have megabytes.
        text = _reason(error)[:10_000]
        line = " ".join(text.replace("\x00", "").split()).encode("utf-8", "replace").decode()
    except Exception:  # noqa: BLE001 - as said
        line = f"{type(error).__name__}, whose text cannot be read"
    return line[:2000] or type(error).__name__


def _reason(error: BaseException | str) -> str:
    text = str(error)
    if isinstance(error, WorkerLostError):
        text = "The process running the task was lost"
    elif isinstance(error, TimeLimitExceeded):
        text = f"The task took longer than its time limit of {error.args[0]:g} seconds"
    elif isinstance(error, StoreNotWritable):
        text = "The database was read-only, or its disk was full"
    elif isinstance(error, BaseException) and is_away(error):
        text = "Database connection failed"
    elif isinstance(error, OperationalError) and error.orig is not None:
        text = f"Database error: {type(error.orig).__name__}"
    elif isinstance(error, SQLAlchemyError):
        text = f"Database error: {type(error).__name__}"
    elif isinstance(error, BaseException) and not isinstance(error, Exception):
        # The name says more than the text, as of `sys.exit(2)`.
        text = f"{type(error).__name__}: {text}"
    return text
