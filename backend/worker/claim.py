"""The way of one attempt through a worker's child process: claim, work, outcome."""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Any, TypeVar

import celery
from celery.exceptions import Ignore, Retry
from pydantic import BaseModel, ValidationError
from sqlalchemy import event
from sqlalchemy.exc import DataError, OperationalError
from sqlalchemy.orm import Session
from structlog.contextvars import bound_contextvars

from backend.celery_app import ATTEMPT_HEADER, app
from backend.db import ledger, workers
from backend.db.session import committed, engine, store_errors, transaction, transaction_id
from backend.errors import Duplicate, StatementFailed, StoreUnavailable, Superseded, TaskError
from backend.tasks.registry import Run, Task, registered
from backend.telemetry import about
from backend.worker.outcomes import backoff, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy import Connection

logger = logging.getLogger(__name__)

T = TypeVar("T")

# How long an attempt's writes are tried before it is left to the reconciler.
STORE_PATIENCE = 60.0
# From this attempt on, losing PostgreSQL in the middle of a task costs an attempt: the task's own
# statement may be what takes PostgreSQL down.
FREE_ATTEMPTS = 100


class LedgerTask(celery.Task):  # type: ignore[type-arg]  # generic in the stubs only
    """Celery's side of a registered task; `spec` is ours.

    Calling it ends in one of four ways: it returns (the ledger says SUCCESS), raises Retry (RETRY),
    raises the task's error (FAILURE), or raises Ignore (this delivery does not count). Celery then
    calls `LedgerFirst.store_result`, which finds `request.recorded` set and only sends the reply.
    """

    Request = "backend.worker.request:LedgerRequest"
    spec: Task
    request: Any  # a Context, which takes any attribute; the stubs do not say so

    def __call__(self, *args: object, **kwargs: object) -> dict[str, Any]:
        """Run one attempt for the message that Celery is handling."""
        attempt = Attempt(self.spec, self.request, args, kwargs)
        try:
            value = attempt.run()
        except Duplicate as reason:
            logger.info(
                "%s dropped: another delivery of it counts", attempt.what, extra=attempt.log
            )
            raise Ignore from reason
        except (StoreUnavailable, Superseded) as reason:
            logger.warning("%s gave up: %s", attempt.what, reason, extra=attempt.log)
            raise Ignore from reason
        except TaskError as error:
            raise self._failed(attempt, error, retry=False) from error
        except Exception as error:
            # Recorded first: a log may be slow, or broken.
            outcome = self._failed(attempt, error, retry=True)
            logger.exception("%s raised", attempt.what, extra=attempt.log)
            raise outcome from error
        self.request.recorded = True
        logger.info("%s succeeded", attempt.what, extra=attempt.log)
        return value

    def _failed(self, attempt: Attempt, error: Exception, *, retry: bool) -> Exception:
        """Record an error; return what to raise so that Celery, and Flower, see the same."""
        delay = backoff(attempt.number)
        try:
            state = attempt.fail(error, retry=retry, delay=delay)
        except StoreUnavailable as reason:
            return Ignore(str(reason))
        self.request.recorded = True
        if state == "RETRY":
            return Retry(plain(error), exc=error, when=delay)  # type: ignore[arg-type]  # a float is no Real to mypy
        return error if state == "FAILURE" else Ignore("superseded")


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
        # A message without the header came by another door: Flower, `celery call`.
        self.foreign = getattr(request, ATTEMPT_HEADER, None) is None
        self.number: int = getattr(request, ATTEMPT_HEADER, None) or 1
        self.worker: str = request.hostname
        self.reply_to: str | None = request.reply_to
        self.what = f"{spec.name}[{self.id}]"
        self.log = about(self.id, self.number)
        self._payload = payload(spec, args, kwargs)
        self._claimed_by: str | None = None

    def run(self) -> dict[str, Any]:
        """Claim, work and write the outcome; return the task's value as JSON would have it.

        Raises Superseded where the delivery does not count, StoreUnavailable when PostgreSQL
        stayed away, TaskError for arguments that do not fit, and whatever the task raises.
        """
        if self.spec.one_commit:
            # All or nothing, so all of it can be tried again while PostgreSQL restarts.
            return persist(self._in_one_commit)
        persist(self._claim)
        return self._work_and_succeed()

    def fail(self, error: Exception, *, retry: bool, delay: float) -> str | None:
        """Record an error, claiming first where nothing was; return the state it led to."""

        def write() -> str | None:
            with StoreSession() as session:
                if self.foreign and self.spec.one_commit:
                    self._enter(session)
                state = ledger.fail(
                    session,
                    self.id,
                    self.number,
                    plain(error),
                    self.worker,
                    retry=retry,
                    delay=delay,
                )
                session.commit()
                return state

        state = persist(write)
        logger.warning("%s: %s after an error: %s", self.what, state, plain(error), extra=self.log)
        return state

    def _claim(self) -> None:
        with StoreSession() as session:
            if not workers.leased(session, self.worker):
                # Whatever it started would be taken from it at once; the lease will be back.
                raise StoreUnavailable
            try:
                self._claim_in(session)
            except Duplicate:
                # The try before may have been cut off in its commit. Asked last: until the row's
                # lock is free, that commit may still be under way.
                if self._claimed_by and committed(session, self._claimed_by):
                    return
                raise
            self._claimed_by = transaction_id(session)
            session.commit()

    def _claim_in(self, session: Session) -> None:
        if self.foreign:
            started = self._enter(session)
        else:
            started = ledger.claim(session, self.id, self.number, self.worker)
        if not started:
            raise Duplicate

    def _enter(self, session: Session) -> bool:
        args = json.dumps(self._payload)
        new = ledger.Submission(
            self.id, self.spec.name, args, self.spec.max_attempts, self.reply_to
        )
        return ledger.enter(session, new, self.worker)

    def _in_one_commit(self) -> dict[str, Any]:
        with StoreSession() as session:
            self._claim_in(session)
            run = Run(self.id, self.number, session, one_commit=True)
            try:
                result = call(self.spec, self._payload, run)
            except OperationalError as error:
                raise StatementFailed(plain(error)) from error
            value = self._finish(session, result)
            session.commit()
            return value

    def _work_and_succeed(self) -> dict[str, Any]:
        try:
            with StoreSession(patience=self.spec.time_limit) as session:
                result = call(self.spec, self._payload, Run(self.id, self.number, session))
                if session.in_transaction():
                    value = self._finish(session, result)
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
            persist(lambda: self._give_back(reason))
            raise
        # Nothing was written yet, so the outcome alone can be tried again.
        return persist(lambda: self._succeed_alone(result))

    def _give_back(self, reason: str) -> None:
        """Let the task run again at no cost of an attempt."""
        delay = backoff(self.number)
        with transaction() as connection:
            ledger.give_back(
                connection, self.id, self.number, self.worker, error=reason, delay=delay
            )

    def _succeed_alone(self, result: BaseModel) -> dict[str, Any]:
        with StoreSession() as session:
            value = self._finish(session, result)
            session.commit()
            return value

    def _finish(self, session: Session, result: BaseModel) -> dict[str, Any]:
        value: dict[str, Any] = result.model_dump(mode="json")
        try:
            counted = ledger.succeed(session, self.id, self.number, result.model_dump_json())
        except DataError as error:
            raise TaskError("The task's value cannot be stored") from error
        if not counted:
            raise Superseded("the ledger has moved on")
        return value


def payload(spec: Task, args: Sequence[object], kwargs: Mapping[str, object]) -> dict[str, object]:
    """Return a message's arguments by name; those given by position are in the model's order."""
    return {**dict(zip(spec.arguments.model_fields, args, strict=False)), **kwargs}


def call(spec: Task, arguments: Mapping[str, object], run: Run) -> BaseModel:
    """Call a task's function. Raises TaskError for arguments that do not fit."""
    try:
        validated = spec.arguments.model_validate(arguments)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()
        )
        raise TaskError(f"The arguments do not fit: {faults}") from error
    # The task's own log lines belong to it too.
    with bound_contextvars(**about(run.task_id, run.attempt)):
        value: object = spec.function(validated, run)
    if not isinstance(value, BaseModel):
        raise TaskError(f"The task returned {type(value).__name__} instead of a Pydantic model")
    return value


class StoreSession(Session):
    """A session on this process's engine of transactions.

    `patience`: the seconds that its transaction may wait for the task, where more than usual.
    """

    def __init__(self, patience: float | None = None) -> None:
        super().__init__(engine(), expire_on_commit=False)
        if patience is not None:
            event.listen(self, "after_begin", _allow_waiting(patience))


def _allow_waiting(seconds: float) -> Callable[[Session, object, Connection], None]:
    def allow(_session: Session, _transaction: object, connection: Connection) -> None:
        setting = f"SET LOCAL idle_in_transaction_session_timeout = {int(seconds * 1000)}"
        connection.exec_driver_sql(setting)

    return allow


def persist(write: Callable[[], T]) -> T:
    """Do a whole transaction, again and again while PostgreSQL is away, for STORE_PATIENCE."""
    deadline = time.monotonic() + STORE_PATIENCE
    pause = 0.1
    while True:
        try:
            with store_errors():
                return write()
        except StoreUnavailable:
            if time.monotonic() + pause > deadline:
                raise
            time.sleep(pause)
            pause = min(pause * 2, 5.0)


def register() -> None:
    """Make a Celery task of every registered task, one for each of its names."""
    for name, spec in registered().items():
        attributes = {"name": name, "spec": spec, "time_limit": spec.time_limit}
        app.register_task(type(name, (LedgerTask,), attributes)())
