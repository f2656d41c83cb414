"""Runs attempts in a child process: claim, run, finish, reply.

The parent process sends a list. Several attempts share one transaction; they are all of
`one_commit` tasks. A failed one runs alone later, so that no other task gets its error.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from billiard.common import terminate_handler_fired  # type: ignore[attr-defined]  # stubs lack it
from sqlalchemy.exc import DataError

from backend.broker.app import app
from backend.db import ledger
from backend.db.records import outcome
from backend.db.session import transaction
from backend.db.transaction_policy import ENDED
from backend.errors import (
    Duplicate,
    StatementFailed,
    StoreNotWritable,
    StoreUnavailable,
    Superseded,
    TaskError,
    TaskRaised,
)
from backend.registry import registered
from backend.states import RETRY, SUCCESS
from backend.task import Run
from backend.telemetry.logs import plain_traceback
from backend.worker.attempt.attempt import Attempt, Report
from backend.worker.attempt.call import as_json, call
from backend.worker.attempt.retry import retry_while_unavailable
from backend.worker.attempt.session import TaskSession
from backend.worker.failures import error_text
from backend.worker.stray_messages import note_dropped

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from backend.broker.wire import Delivery
    from backend.db.records import TaskRecord
    from backend.db.session import Executor

logger = logging.getLogger(__name__)

# After this many errors the rest of a batch runs alone too, because each error starts it again.
MAX_FAILED = 3
# A task itself may cause PostgreSQL to fail. From this attempt on, losing PostgreSQL is an error of
# the task (tasks without `one_commit`).
FREE_ATTEMPTS = 100
# In a `one_commit` task, this many lost connections within one attempt are an error of the task.
MAX_LOSSES = 3
OWN_ROW = "The task changed its own row in the ledger"


def execute(worker: str, deliveries: Sequence[Delivery]) -> Report:
    """Run attempts for a worker; return a report about them.

    Raises only what ends this process: the parent may be unable to unpickle other errors.
    """
    specs = registered()
    try:
        return run([Attempt(worker, delivery, specs[delivery.name]) for delivery in deliveries])
    except Exception:
        logger.exception("attempts were given up; the reconciler lets them run again")
        return Report()


def run(attempts: Sequence[Attempt]) -> Report:
    """Run attempts; return a report. Raises only what ends this process."""
    begin = time.monotonic()
    report = Report()
    alone = len(attempts) == 1
    outcomes = _run_alone(attempts[0], report) if alone else _run_batch(attempts, report)
    for end in outcomes:
        report.add(end)
    if logger.isEnabledFor(logging.DEBUG):
        for attempt in attempts:
            if attempt.id in report.ended:
                state, _ = report.ended[attempt.id]
                logger.debug("%s: %s", attempt.label, state, extra=attempt.log_extra)
    _reply(attempts, outcomes)
    report.seconds = time.monotonic() - begin
    return report


def _run_batch(attempts: Sequence[Attempt], report: Report) -> list[TaskRecord]:
    """Run attempts together; return the outcomes, and add to the report those to be run alone."""
    left = list(attempts)
    while left:
        try:
            return retry_while_unavailable(partial(_in_one_commit, left))
        except TaskRaised as raised:
            left = [attempt for attempt in left if attempt.id != raised.task_id]
            report.alone.append(raised.task_id)
            if len(report.alone) < MAX_FAILED:
                continue
        except StoreUnavailable:
            # Their rows in the outbox are still there: they are published again.
            logger.warning("short tasks given up, since PostgreSQL stayed away: %d", len(left))
            return []
        except Exception:
            logger.exception("a batch failed; its short tasks run alone: %d", len(left))
        report.alone += [attempt.id for attempt in left]
        break
    return []


def _run_alone(attempt: Attempt, report: Report) -> list[TaskRecord]:
    """Run one attempt; return its outcome, none if nothing was recorded."""
    try:
        if attempt.spec.one_commit:
            # All or nothing, so all of it can be tried again while PostgreSQL restarts.
            return retry_while_unavailable(lambda: _in_one_commit([attempt]))
        retry_while_unavailable(attempt.claim)
        return [_in_steps(attempt)]
    except Duplicate:
        _note_dropped([attempt])
    except StoreUnavailable as reason:
        logger.warning("%s gave up: %s", attempt.label, reason, extra=attempt.log_extra)
    except TaskRaised as raised:
        cause = raised.__cause__
        return _handle_error(attempt, raised if cause is None else cause, report)
    except BaseException as error:
        if terminate_handler_fired():
            raise  # this process was told to end (SIGTERM), and its worker knows
        return _handle_error(attempt, error, report)
    return []


def _in_one_commit(attempts: Sequence[Attempt]) -> list[TaskRecord]:
    """Claim, run and finish attempts in one transaction; return outcomes of the claimed ones.

    Raises TaskRaised for an error of a task, Duplicate for an external task that the ledger has,
    and what `_finish` raises.
    """
    worker = attempts[0].worker
    # If a task commits without being noticed, its claim is committed too. A single attempt is then
    # STARTED, so the reconciler finds it. A batch does not set STARTED, because that would update
    # each row twice; db/repairs.py finds its tasks.
    start = len(attempts) == 1
    with TaskSession() as session:
        for attempt in attempts:
            if not attempt.adopt(session):
                raise Duplicate
        numbers = {attempt.id: attempt.number for attempt in attempts}
        claim = ledger.claim(session, numbers, worker, start=start)
        outcomes = [
            outcome(
                attempt.id, attempt.number, SUCCESS, result=_value_in_one_commit(attempt, session)
            )
            for attempt in attempts
            if attempt.id in claim.ids
        ]
        if outcomes:
            _finish(session, outcomes, worker, waiting=not start, began=claim.began)
            session.commit()
    if len(outcomes) < len(attempts):
        _note_dropped([attempt for attempt in attempts if attempt.id not in claim.ids])
    return outcomes


def _value_in_one_commit(attempt: Attempt, session: TaskSession) -> str:
    """Return the value as JSON text. Raises TaskRaised, StoreUnavailable."""
    try:
        return _value(attempt, session)
    except StoreNotWritable:
        raise
    except StoreUnavailable as error:
        attempt.losses += 1
        if attempt.losses < MAX_LOSSES:
            raise
        failed = StatementFailed("The task lost its database connection each time")
        failed.__cause__ = error
        raise TaskRaised(attempt.id) from failed
    except BaseException as error:
        if terminate_handler_fired():
            raise  # SIGTERM, as in _run_alone
        raise TaskRaised(attempt.id) from error


def _value(attempt: Attempt, session: TaskSession) -> str:
    """Run a task's function; return its value as JSON text. Raises what the function raises."""
    run = Run(attempt.id, attempt.number, session, one_commit=attempt.spec.one_commit)
    with session.lent():
        return as_json(call(attempt.spec, attempt.arguments, run))


def _in_steps(attempt: Attempt) -> TaskRecord:
    """Run an attempt that was claimed, and finish it in the transaction of its writes."""
    try:
        with TaskSession(time_limit=attempt.spec.time_limit) as session:
            value = _value(attempt, session)
            end = outcome(attempt.id, attempt.number, SUCCESS, result=value)
            if session.in_transaction():
                _finish(session, [end], attempt.worker, waiting=False, began=session.began)
                session.commit()
                return end
    except StoreUnavailable as error:
        # The task's writes were rolled back, so the whole task must run again.
        reason = error_text(error)
        if attempt.number >= FREE_ATTEMPTS:
            raise StatementFailed(reason) from error
        attempt.give_back(reason)
        raise

    # The task has written nothing, so it is enough to retry the write of its outcome.
    def finish() -> None:
        with transaction() as connection:
            _finish(connection, [end], attempt.worker, waiting=False, began=None)

    retry_while_unavailable(finish)
    return end


def _finish(
    connection: Executor,
    outcomes: Sequence[TaskRecord],
    worker: str,
    *,
    waiting: bool,
    began: datetime | None,
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
        if not ledger.same_transaction(connection, began):
            raise TaskError(ENDED)
        raise Superseded("the task has ended or has a newer attempt")


def _handle_error(attempt: Attempt, error: BaseException, report: Report) -> list[TaskRecord]:
    """Record and log what an attempt has raised; return its outcome, none if not recorded."""
    if isinstance(error, Superseded):
        # Its writes were rolled back. The error is recorded only if this is still the current
        # attempt: then the task had changed its own row.
        error = TaskError(OWN_ROW)
    final = isinstance(error, TaskError)
    # Recorded first: a log may be slow, or broken.
    end = _record(attempt, error, retry=not final)
    if not final:
        logger.error("%s raised", attempt.label, extra=attempt.log_extra, exc_info=error)
        report.traceback = plain_traceback(error)
    return [end] if end else []


def _record(attempt: Attempt, error: BaseException, *, retry: bool) -> TaskRecord | None:
    text = error_text(error)
    try:
        state = retry_while_unavailable(lambda: attempt.record_error(text, retry=retry))
    except StoreUnavailable:
        return None  # the reconciler finds it, as it finds a lost attempt
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


def _note_dropped(attempts: Sequence[Attempt]) -> None:
    for attempt in attempts:
        logger.debug(
            "%s dropped: the task does not wait for this attempt",
            attempt.label,
            extra=attempt.log_extra,
        )
    ours = [attempt for attempt in attempts if not attempt.delivery.external]
    if ours:
        note_dropped(ours[0].worker, ours[0].delivery.queue, [each.id for each in ours])


def _reply(attempts: Sequence[Attempt], outcomes: Sequence[TaskRecord]) -> None:
    """Send replies about the tasks that have ended."""
    deliveries = {attempt.id: attempt.delivery for attempt in attempts}
    ended = [(deliveries[end.id], end) for end in outcomes if end.state != RETRY]
    if ended:
        results: Any = app.backend
        results.reply(ended)
