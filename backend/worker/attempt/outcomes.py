"""Writes outcomes of attempts to the ledger, logs them, and sends replies about them."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DataError

from backend.broker.app import app
from backend.db import ledger, limits, running
from backend.db.records import outcome
from backend.db.session import transaction
from backend.db.transaction_policy import ENDED
from backend.errors import (
    ArgumentsDoNotFit,
    Fenced,
    RetryLater,
    StatementFailed,
    StoreUnavailable,
    Superseded,
    TaskError,
    TimeUp,
)
from backend.states import RETRY
from backend.telemetry.logs import plain_traceback
from backend.worker import current_line
from backend.worker.attempt.retry import retry_while_unavailable
from backend.worker.failures import error_text, error_type
from backend.worker.stray_messages import note_dropped as note_stray

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from backend.db.limits import Limit
    from backend.db.records import TaskRecord
    from backend.db.session import Executor
    from backend.worker.attempt.attempt import Attempt
    from backend.worker.attempt.report import Report

logger = logging.getLogger(__name__)

# An attempt with this number or a higher one cannot be put off: it fails.
PUT_OFF_END = 30_000
# Retried even if `retry_for` lacks them: unfit arguments, an error of PostgreSQL, a time limit.
_ALWAYS_RETRIED = (ArgumentsDoNotFit, StatementFailed, TimeUp)
OWN_ROW = "The task changed its own row in the ledger"


def finish(
    connection: Executor,
    outcomes: Sequence[TaskRecord],
    worker: str,
    *,
    waiting: bool,
    began: datetime | None = None,
) -> None:
    """Write outcomes; `waiting` and `began` as for ledger.finish.

    Raises Superseded if an attempt is not the current one, TaskError for a value that cannot be
    stored or a transaction that a task has ended.
    """
    try:
        counted = ledger.finish(connection, outcomes, worker, waiting=waiting, began=began)
    except DataError as error:
        raise TaskError("The task's value cannot be stored") from error
    if len(counted) < len(outcomes):
        if not running.same_transaction(connection, began):
            raise TaskError(ENDED)
        raise Superseded("the task has ended or has a newer attempt")


def finish_alone(
    end: TaskRecord, worker: str, *, waiting: bool, limit: Limit | None = None
) -> None:
    """Write an outcome in a separate transaction. Raises as `finish` does, and StoreUnavailable."""

    def write() -> None:
        with transaction() as connection, limits.ending(connection, limit):
            finish(connection, [end], worker, waiting=waiting)

    retry_while_unavailable(write)


def handle_error(attempt: Attempt, error: BaseException, report: Report) -> list[TaskRecord]:
    """Record and log what an attempt has raised; return its outcome, none if not recorded."""
    if isinstance(error, Superseded):
        # Its writes were rolled back. The error is recorded only if this is still the current
        # attempt: then the task had changed its own row.
        error = TaskError(OWN_ROW)
    if isinstance(error, RetryLater) and attempt.number >= PUT_OFF_END:
        error = TaskError("Put off too often")
    # Recorded first: a log may be slow, or broken.
    end = _record(attempt, error)
    if not isinstance(error, (TaskError, RetryLater)):
        logger.error("%s raised", attempt.label, extra=attempt.log_extra, exc_info=error)
        report.traceback = plain_traceback(error)
    return [end] if end else []


def _may_retry(attempt: Attempt, error: BaseException) -> bool:
    """Return whether a task may have another attempt after an error."""
    if isinstance(error, TaskError):
        return False
    return isinstance(error, (*attempt.spec.retry_for, *_ALWAYS_RETRIED))


def _record(attempt: Attempt, error: BaseException) -> TaskRecord | None:
    text = error_text(error)
    if isinstance(error, TimeUp) and (line := current_line.of_error(error, attempt.spec)):
        text += f"; it was in {line}"
    if isinstance(error, RetryLater):
        write = partial(attempt.put_off, text, error.seconds, error_type(error))
    else:
        retry = _may_retry(attempt, error)
        write = partial(attempt.record_error, text, error_type(error), retry=retry)
    try:
        state = retry_while_unavailable(write)
    except StoreUnavailable:
        return None  # the reconciler finds it, as it finds a lost attempt
    except Fenced:
        state = None
    except Exception:
        logger.exception(
            "%s: its error could not be recorded", attempt.label, extra=attempt.log_extra
        )
        return None
    if state is None:
        logger.warning(
            "%s: outcome dropped: the task has ended or has a newer attempt",
            attempt.label,
            extra=attempt.log_extra,
        )
        return None
    logger.warning("%s: %s after an error: %s", attempt.label, state, text, extra=attempt.log_extra)
    return outcome(attempt.id, attempt.number, state, error=text)


def note_dropped(attempts: Sequence[Attempt]) -> None:
    """Log attempts that their tasks do not wait for; record those that are not in the ledger."""
    for attempt in attempts:
        logger.debug(
            "%s dropped: the task does not wait for this attempt",
            attempt.label,
            extra=attempt.log_extra,
        )
    ours = [attempt for attempt in attempts if not attempt.delivery.external]
    if ours:
        note_stray(ours[0].worker, ours[0].delivery.queue, [each.id for each in ours])


def settle(attempts: Iterable[Attempt], outcomes: Sequence[TaskRecord], report: Report) -> None:
    """Add outcomes that the ledger has to the report, and reply about tasks that have ended."""
    ended = []
    by_id = {attempt.id: attempt for attempt in attempts}
    for end in outcomes:
        report.add(end)
        attempt = by_id[end.id]
        if end.state != RETRY:
            delivery = attempt.delivery
            ended.append((delivery.reply_to, delivery.correlation_id, end))
        logger.debug("%s: %s", attempt.label, end.state, extra=attempt.log_extra)
    if ended:
        results: Any = app.backend
        results.reply(ended)
