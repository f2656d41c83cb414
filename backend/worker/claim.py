"""The way of one attempt through a worker's child process: claim, work, outcome."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import celery
from billiard.common import terminate_handler_fired  # type: ignore[attr-defined]  # stubs lack it
from celery.exceptions import Ignore, Retry
from pydantic_core import from_json
from sqlalchemy.exc import DataError, IntegrityError, OperationalError

from backend.celery_app import ATTEMPT_HEADER, app
from backend.db import ledger, queries
from backend.db.session import committed, transaction
from backend.db.task_session import TaskSession
from backend.db.transaction_policy import ENDED
from backend.errors import (
    Duplicate,
    ReportedError,
    StatementFailed,
    StoreUnavailable,
    Superseded,
    TaskError,
)
from backend.states import FAILURE, RETRY, SUCCESS
from backend.tasks.registry import Run, Task, registered
from backend.telemetry import about
from backend.worker.call import Losses, as_json, call, foreign_arguments
from backend.worker.outcomes import backoff, plain
from backend.worker.retry import retry_while_unavailable
from backend.worker.stray_messages import DroppedMessages

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from pydantic import BaseModel

    from backend.db.session import Executor

logger = logging.getLogger(__name__)

# Is the task itself what breaks PostgreSQL? If it does not run in one commit, losing PostgreSQL
# leads to a new attempt: from this one on it may be to blame, so it costs an attempt as an error
# does. LOSSES (call.py) answers this for tasks in one commit.
FREE_ATTEMPTS = 100
OWN_ROW = "The task changed its own row in the ledger"


class LedgerTask(celery.Task):  # type: ignore[type-arg]  # generic in the stubs only
    """Celery's side of a registered task; `spec` is ours.

    Calling it ends in one of four ways: it returns (the ledger says SUCCESS), raises Retry (RETRY),
    raises ReportedError (FAILURE), or raises Ignore (this delivery does not count). Celery then
    calls `LedgerResultBackend.store_result`, which finds `request.recorded` set and only sends the
    reply.

    It never raises the task's own error: Celery gives some exception classes a meaning of its own,
    and after a MemoryError the worker ends.
    """

    Request = "backend.worker.request:LedgerRequest"
    spec: Task
    request: Any  # a Context, which takes any attribute; the stubs do not say so

    def __call__(self, *args: object, **kwargs: object) -> Any:  # noqa: ANN401 - JSON
        """Run one attempt for the message that Celery is handling."""
        attempt = Attempt(self.spec, self.request, args, kwargs)
        try:
            value = attempt.run()
        except Duplicate as reason:
            logger.debug(
                "%s dropped: the task does not wait for this attempt",
                attempt.what,
                extra=attempt.log,
            )
            if not attempt.foreign:
                queue = self.request.delivery_info["routing_key"]
                DroppedMessages(attempt.worker, queue, [attempt.id]).record()
            raise Ignore from reason
        except StoreUnavailable as reason:
            logger.warning("%s gave up: %s", attempt.what, reason, extra=attempt.log)
            raise Ignore from reason
        except Superseded:
            # Its writes were rolled back. If it counts all the same, it has changed its own row.
            raise self._failed(attempt, TaskError(OWN_ROW), retry=False) from None
        except TaskError as error:
            raise self._failed(attempt, error, retry=False) from None
        except BaseException as error:
            if terminate_handler_fired():
                raise  # this process was told to end (SIGTERM), and its worker knows
            # Recorded first: a log may be slow, or broken.
            outcome = self._failed(attempt, error, retry=True)
            logger.exception("%s raised", attempt.what, extra=attempt.log)
            raise outcome.with_traceback(error.__traceback__) from None
        self.request.recorded = True
        logger.debug("%s succeeded", attempt.what, extra=attempt.log)
        return value

    def _failed(self, attempt: Attempt, error: BaseException, *, retry: bool) -> Exception:
        """Record an error; return what to raise so that Celery, and Flower, see the same."""
        delay = backoff(attempt.number)
        try:
            state = attempt.fail(error, retry=retry, delay=delay)
        except StoreUnavailable as reason:
            return Ignore(str(reason))
        except Exception:
            # The reconciler finds it as it finds a lost attempt.
            logger.exception("%s: its error could not be recorded", attempt.what, extra=attempt.log)
            return Ignore("not recorded")
        self.request.recorded = True
        reported = ReportedError(plain(error))
        if state == RETRY:
            return Retry(plain(error), exc=reported, when=delay)  # type: ignore[arg-type]  # a float is no Real to mypy
        return reported if state == FAILURE else Ignore("superseded")


class Attempt:
    """One delivery of one attempt."""

    def __init__(
        self,
        spec: Task,
        request: Any,  # noqa: ANN401 - celery.app.task.Context takes its attributes from headers
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
    ) -> None:
        self.spec = spec
        self.id: str = request.id
        # A message without the header came from Flower or `celery call`.
        self.foreign = getattr(request, ATTEMPT_HEADER, None) is None
        self.number: int = getattr(request, ATTEMPT_HEADER, None) or 1
        self.worker: str = request.hostname
        self.reply_to: str | None = request.reply_to
        self.what = f"{spec.name}[{self.id}]"
        self.log = about(self.id, self.number)
        self._args, self._kwargs = args, kwargs
        self._losses = Losses()
        self._claimed_by: str | None = None

    def run(self) -> Any:  # noqa: ANN401 - JSON
        """Claim, work and write the outcome; return the task's value as JSON would have it.

        Raises Superseded where the delivery does not count, StoreUnavailable when PostgreSQL
        stayed away, TaskError for arguments that do not fit, and whatever the task raises.
        """
        if self.spec.one_commit:
            # All or nothing, so all of it can be tried again while PostgreSQL restarts.
            return retry_while_unavailable(self._in_one_commit)
        retry_while_unavailable(self._claim)
        return self._work_and_succeed()

    def fail(self, error: BaseException, *, retry: bool, delay: float) -> str | None:
        """Record an error, claiming first where nothing was; return the state it led to."""

        def write() -> str | None:
            with transaction() as connection:
                if self.foreign and self.spec.one_commit:
                    try:
                        self._adopt(connection)
                    except Duplicate:
                        return None  # another delivery has submitted it in the meantime
                return ledger.fail(
                    connection,
                    self.id,
                    self.number,
                    plain(error),
                    self.worker,
                    # If it waits although its claim was committed, PostgreSQL has lost the claim in
                    # a failover, and the task is left to its next delivery.
                    waiting=self._claimed_by is None,
                    retry=retry,
                    delay=delay,
                )

        state = retry_while_unavailable(write)
        if state is None:
            logger.warning(
                "%s: outcome dropped: the task has ended or has a newer attempt",
                self.what,
                extra=self.log,
            )
        else:
            logger.warning(
                "%s: %s after an error: %s", self.what, state, plain(error), extra=self.log
            )
        return state

    def _claim(self) -> None:
        with transaction() as connection:
            try:
                claim = self._claim_in(connection)
            except Duplicate:
                # The try before may have been cut off in its commit. Asked last: until the row's
                # lock is free, that commit may still be under way.
                if self._claimed_by and committed(connection, self._claimed_by):
                    return
                raise
            if not claim.leased:
                # Whatever it started would be taken from it at once; the lease will be back.
                raise StoreUnavailable
            self._claimed_by = claim.transaction_id

    def _claim_in(self, connection: Executor) -> ledger.Claim:
        """Claim the attempt in a transaction. Raises Duplicate."""
        if self.foreign:
            self._adopt(connection)
        claim = ledger.claim(connection, {self.id: self.number}, self.worker)
        if self.id not in claim.ids:
            raise Duplicate
        return claim

    def _adopt(self, connection: Executor) -> None:
        """Submit a task that another program has sent. Raises Duplicate for a known id."""
        try:
            arguments = self._arguments()
        except TaskError:
            arguments = "null"  # a row for the error, which the call will raise
        new = ledger.NewTask(
            self.id, self.spec.name, arguments, self.spec.max_attempts, self.reply_to
        )
        if queries.known(connection, [self.id]):
            raise Duplicate
        try:
            # On a savepoint, so that the transaction can go on when another delivery was faster.
            with connection.begin_nested():
                ledger.submit(connection, [new])
        except IntegrityError as error:
            raise Duplicate from error

    def _arguments(self) -> str:
        """Return the message's arguments as JSON text. Raises TaskError."""
        if self.foreign:
            return foreign_arguments(self.spec, self._args, self._kwargs)
        (text,) = self._args  # a message of ours has this one argument
        return str(text)

    def _in_one_commit(self) -> Any:  # noqa: ANN401 - JSON
        with TaskSession() as session:
            claim = self._claim_in(session)
            run = Run(self.id, self.number, session, one_commit=True)
            try:
                with session.lent(), self._losses:
                    result = call(self.spec, self._arguments(), run)
            except OperationalError as error:
                raise StatementFailed(plain(error)) from error
            value = self._finish(session, result, claim.began)
            session.commit()
            return value

    def _work_and_succeed(self) -> Any:  # noqa: ANN401 - JSON
        try:
            with TaskSession(time_limit=self.spec.time_limit) as session:
                with session.lent():
                    run = Run(self.id, self.number, session)
                    result = call(self.spec, self._arguments(), run)
                if session.in_transaction():
                    value = self._finish(session, result, session.began)
                    session.commit()
                    return value
        except StoreUnavailable as error:
            # What the task has written is gone, so all of it has to be done again.
            reason = plain(error)
            if self.number >= FREE_ATTEMPTS:
                raise StatementFailed(reason) from error
            logger.warning(
                "%s lost PostgreSQL: its writes were rolled back, and it runs again, at no cost of"
                " an attempt, when PostgreSQL takes writes",
                self.what,
                extra=self.log,
            )
            retry_while_unavailable(lambda: self._give_back(reason))
            raise
        # Nothing was written yet, so the outcome alone can be tried again.
        return retry_while_unavailable(lambda: self._succeed_alone(result))

    def _give_back(self, reason: str) -> None:
        """Let the task run again at no cost of an attempt."""
        delay = backoff(self.number)
        with transaction() as connection:
            ledger.reschedule(
                connection,
                {self.id: self.number},
                self.worker,
                waiting=False,
                free=True,
                error=reason,
                delay=delay,
            )

    def _succeed_alone(self, result: BaseModel) -> Any:  # noqa: ANN401 - JSON
        with transaction() as connection:
            return self._finish(connection, result, None)

    def _finish(self, connection: Executor, result: BaseModel, began: datetime | None) -> Any:  # noqa: ANN401 - JSON
        """Write SUCCESS; return the value as JSON would have it.

        `began`: when the transaction of the task's writes began, None where it has written nothing.
        Raises Superseded, TaskError.
        """
        text = as_json(result)
        end = ledger.Outcome(self.id, self.number, SUCCESS, text)
        try:
            counted = ledger.finish(connection, [end], self.worker, waiting=False, began=began)
        except DataError as error:
            raise TaskError("The task's value cannot be stored") from error
        if not counted:
            if not ledger.same_transaction(connection, began):
                raise TaskError(ENDED)
            raise Superseded("the ledger has moved on")
        return from_json(text)


def register() -> None:
    """Make a Celery task of every registered task, one for each of its names."""
    for name, spec in registered().items():
        attributes = {"name": name, "spec": spec, "time_limit": spec.time_limit}
        app.register_task(type(name, (LedgerTask,), attributes)())
