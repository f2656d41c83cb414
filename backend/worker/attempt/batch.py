"""Runs attempts of `one_commit` tasks: claim, run and finish are one transaction.

A failed one runs alone later, so that no other task gets its error. A function that takes lists is
called once for all its attempts. If this call fails, the function is called for each of them.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from billiard.common import terminate_handler_fired  # type: ignore[attr-defined]  # stubs lack it

from backend.db import locked
from backend.db.records import outcome
from backend.db.session import engine
from backend.db.task_session import TaskSession
from backend.errors import (
    Duplicate,
    StatementFailed,
    StoreNotWritable,
    StoreUnavailable,
    TaskError,
    TaskRaised,
)
from backend.states import SUCCESS
from backend.worker.attempt.call import value_of, values_of
from backend.worker.attempt.outcomes import finish, note_dropped
from backend.worker.attempt.retry import retry_while_unavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from backend.db.records import TaskRecord
    from backend.worker.attempt.attempt import Attempt
    from backend.worker.attempt.report import Report

logger = logging.getLogger(__name__)

# After this many errors the rest of a batch runs alone too, because each error starts it again.
MAX_FAILED = 3
# In a `one_commit` task, this many lost connections within one attempt are an error of the task.
MAX_LOSSES = 3


def run_batch(attempts: Sequence[Attempt], report: Report) -> list[TaskRecord]:
    """Run attempts together; return the outcomes, and add to the report those to be run alone."""
    left = list(attempts)
    errors = 0
    while left:
        try:
            return retry_while_unavailable(partial(in_one_commit, left))
        except TaskRaised as raised:
            failed = [attempt for attempt in left if attempt.id in raised.task_ids]
            if len(failed) > 1:
                _separate(failed, raised.__cause__)
            else:
                left.remove(failed[0])
                report.alone += raised.task_ids
            errors += 1
            if errors < MAX_FAILED:
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


def in_one_commit(attempts: Sequence[Attempt]) -> list[TaskRecord]:
    """Claim, run and finish attempts in one transaction; return outcomes of the claimed ones.

    Raises TaskRaised for an error of a task, Duplicate for an external task that the ledger has,
    and what `outcomes.finish` raises.
    """
    worker = attempts[0].worker
    with TaskSession(engine()) as session:
        for attempt in attempts:
            if not attempt.adopt(session):
                raise Duplicate
        numbers = {attempt.id: attempt.number for attempt in attempts}
        # The tasks keep their state, because STARTED would update each row twice. If a task commits
        # without being noticed and its process dies, it is still in the outbox.
        claim = locked.hold(session, numbers, worker)
        outcomes = [
            outcome(attempt.id, attempt.number, SUCCESS, result=value)
            for called in _calls(attempt for attempt in attempts if attempt.id in claim.ids)
            for attempt, value in zip(called, _values(called, session), strict=True)
        ]
        if outcomes:
            finish(session, outcomes, worker, waiting=True, began=claim.began)
            session.commit()
    if len(outcomes) < len(attempts):
        note_dropped([attempt for attempt in attempts if attempt.id not in claim.ids])
    return outcomes


def _separate(attempts: Sequence[Attempt], error: BaseException | None) -> None:
    """Mark attempts after a call for all of them failed: the function will be called for each one.

    The error is logged, because the single calls may succeed.
    """
    for attempt in attempts:
        attempt.called_alone = True
    logger.warning(
        "%s failed when it was called for %d tasks; it will be called for each of them: %s",
        attempts[0].spec.name,
        len(attempts),
        error,
        exc_info=None if isinstance(error, TaskError) else error,
    )


def _calls(attempts: Iterable[Attempt]) -> Iterable[list[Attempt]]:
    """Return a list of attempts for each call of a function."""
    calls: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        together = attempt.spec.takes_lists and not attempt.called_alone
        calls.setdefault(attempt.spec.name if together else attempt.id, []).append(attempt)
    return calls.values()


def _values(attempts: Sequence[Attempt], session: TaskSession) -> list[str]:
    """Return the values of one call as JSON texts. Raises TaskRaised, StoreUnavailable."""
    ids = [attempt.id for attempt in attempts]
    try:
        if len(attempts) > 1:
            return values_of(attempts, session)
        return [value_of(attempts[0], session)]
    except (StoreNotWritable, TaskRaised):
        raise
    except StoreUnavailable as error:
        for attempt in attempts:
            attempt.losses += 1
        if max(attempt.losses for attempt in attempts) < MAX_LOSSES:
            raise
        failed = StatementFailed("The task lost its database connection each time")
        failed.__cause__ = error
        raise TaskRaised(*ids) from failed
    except BaseException as error:
        if terminate_handler_fired():
            raise  # SIGTERM, as in one.py
        raise TaskRaised(*ids) from error
