"""Runs one attempt: an ordinary one in steps, a short one outside a batch."""

from __future__ import annotations

import logging
import time
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

from billiard.common import terminate_handler_fired  # type: ignore[attr-defined]  # stubs lack it
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from backend.db import limits
from backend.db.records import outcome
from backend.db.session import session_engine
from backend.db.task_session import TaskSession
from backend.errors import AtLimit, Duplicate, Fenced, StatementFailed, StoreUnavailable, TaskRaised
from backend.states import SUCCESS
from backend.worker.attempt.batch import in_one_commit
from backend.worker.attempt.call import value_of
from backend.worker.attempt.outcomes import finish, finish_alone, handle_error, note_dropped
from backend.worker.attempt.retry import retry_while_unavailable
from backend.worker.failures import error_text

if TYPE_CHECKING:
    from backend.db.records import TaskRecord
    from backend.worker.attempt.attempt import Attempt
    from backend.worker.attempt.group import Group
    from backend.worker.attempt.report import Report
    from backend.worker.attempt.thread import SharedCommits

logger = logging.getLogger(__name__)

# A task itself may cause PostgreSQL to fail. From this attempt on, losing PostgreSQL is an error of
# the task (tasks without `one_commit`).
FREE_ATTEMPTS = 100

# The names of tasks that used their session when they ran last in this process.
tasks_that_write: set[str] = set()


def run_one(
    attempt: Attempt,
    report: Report,
    group: Group | None = None,
    commits: SharedCommits | None = None,
) -> list[TaskRecord]:
    """Run one attempt; return its outcome, none if nothing was recorded.

    group: holds the attempt, and may write its outcome later: then none is returned.
    commits: shares transactions with attempts in other threads.
    """
    attempt.ends_at = time.monotonic() + attempt.time_limit
    try:
        if attempt.spec.one_commit:
            # All or nothing, so all of it can be tried again while PostgreSQL restarts.
            return retry_while_unavailable(lambda: in_one_commit([attempt]))
        if group is None:
            claim = partial(commits.claim, attempt) if commits else attempt.claim
            retry_while_unavailable(claim)
        with group.running(attempt) if group else nullcontext():
            end = _in_steps(attempt, group, commits)
    except AtLimit:
        logger.debug("%s waits for others to end", attempt.label, extra=attempt.log_extra)
    except Duplicate:
        note_dropped([attempt])
    except Fenced:
        logger.debug("%s was cancelled", attempt.label, extra=attempt.log_extra)
    except StoreUnavailable as reason:
        logger.warning("%s gave up: %s", attempt.label, reason, extra=attempt.log_extra)
    except BaseException as error:
        if terminate_handler_fired():
            raise  # this process was told to end (SIGTERM), and its worker knows
        cause = error.__cause__ if isinstance(error, TaskRaised) else None
        return handle_error(attempt, cause or error, report)
    else:
        return [end] if end else []
    return []


def _in_steps(
    attempt: Attempt, group: Group | None, commits: SharedCommits | None
) -> TaskRecord | None:
    """Run an attempt that was claimed, and finish it in the transaction of its writes.

    Returns the outcome, None if `group` will write it.
    """
    start = partial(group.start, attempt) if group else None
    try:
        engine = session_engine()
        with TaskSession(engine, attempt.time_limit, before_begin=start) as session:
            value = value_of(attempt, session, start)
            end = outcome(attempt.id, attempt.number, SUCCESS, result=value)
            if session.in_transaction():
                tasks_that_write.add(attempt.spec.name)
                with limits.ending(session, attempt.limit):
                    finish(session, [end], attempt.worker, waiting=False, began=session.began)
                session.commit()
                return end
    except (StoreUnavailable, PoolTimeoutError) as error:
        # The task's writes were rolled back, so the whole task must run again.
        reason = error_text(error)
        if attempt.number >= FREE_ATTEMPTS:
            raise StatementFailed(reason) from error
        if group:
            group.stop()  # it may have locked the task's row
        attempt.give_back(reason)
        if isinstance(error, StoreUnavailable):
            raise
        raise StoreUnavailable from error
    tasks_that_write.discard(attempt.spec.name)
    if group and group.defer(end):
        return None
    if commits and commits.finish(attempt, end):
        return end

    # The task has written nothing, so it is enough to retry the write of its outcome.
    finish_alone(end, attempt.worker, waiting=not attempt.started, limit=attempt.limit)
    return end
