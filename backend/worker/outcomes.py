"""Outcomes: the ledger first, then the news.

Celery calls `store_result` for every end that a task can come to. What a child process runs has
recorded its outcome by then (claim.py). What only the parent notices - a lost child, a time limit,
a revoke - is recorded here, in the lease's thread, since the parent's event loop must not wait.
An error that Celery itself raises in a child is recorded by that child.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from celery import states
from celery.backends.rpc import RPCBackend
from celery.exceptions import TimeLimitExceeded, WorkerLostError
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from backend.celery_app import ATTEMPT_HEADER, is_task_id
from backend.db import ledger
from backend.db.session import is_away, transaction
from backend.errors import StoreNotWritable
from backend.states import RETRY, REVOKED
from backend.telemetry import about
from backend.worker import lease
from backend.worker.hints import Hints
from backend.worker.retry import retry_while_unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from celery.app.task import Context
    from kombu import Producer

logger = logging.getLogger(__name__)


def backoff(attempt: int) -> float:
    """Return the seconds to wait after the given attempt failed: 2, 4, 8, … 300."""
    return float(min(2**attempt, 300))


def plain(error: BaseException | str) -> str:
    """Return an error as one line for clients, without queries, hosts or what cannot be stored.

    Never raises, whatever a task's error does.
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


class Ended(NamedTuple):
    """A task that succeeded in a batch, and who wants to know."""

    task_id: str
    value: object
    reply_to: str | None


class LedgerResultBackend:
    """What both backends have in common; mixed in before a backend of Celery's."""

    def store_result(
        self,
        task_id: str,
        result: object,
        state: str,
        traceback: str | None = None,
        request: Context | None = None,
        **_: object,
    ) -> object:
        """Record an outcome where that is still to be done, then tell whoever asked for it.

        Never raises: Celery would make a FAILURE of it and forget the message.
        """
        tell = partial(self.tell, task_id, result, state, traceback, request)
        if getattr(request, "recorded", False):
            if state in states.READY_STATES:
                tell()
        elif request is None:
            # A revoke that Celery's parent process heard of, for a task that it may not even have.
            if state == states.REVOKED and is_task_id(task_id):
                lease.report(_Revoke(task_id, str(result)))
        elif state in states.EXCEPTION_STATES:
            worker = str(getattr(request, "hostname", ""))
            outcome = _Outcome(task_id, _attempt(request), worker, state, result, tell)
            if lease.running():
                lease.report(outcome)
            else:
                _record_in_child(outcome)
        return result

    def get_state(self, task_id: str) -> str:  # noqa: ARG002 - Celery's signature
        """Return PENDING: Celery asks before it marks a task as revoked, and the ledger decides."""
        return states.PENDING

    def tell(
        self,
        task_id: str,
        result: object,
        state: str,
        traceback: str | None,
        request: Context | None,
    ) -> None:
        """Send an outcome that the ledger has, or drop it; never raises."""
        raise NotImplementedError


class RpcOutcomes(LedgerResultBackend, RPCBackend):
    """Replies to the API process that took the task, or to whoever called it."""

    _to_result: Any  # Celery's; the stubs leave it out

    def tell(
        self,
        task_id: str,
        result: object,
        state: str,
        traceback: str | None,
        request: Context | None,
    ) -> None:
        """Reply as Celery does, but without retries and on a connection with deadlines."""
        queue, correlation_id = self.destination_for(task_id, request)
        if not queue:
            return

        def publish(producer: Producer) -> None:
            body = self._to_result(task_id, state, result, traceback, request)
            _reply(producer, queue, body, correlation_id=correlation_id)

        _replies.send(publish)

    def tell_together(self, ended: Sequence[Ended]) -> None:
        """Send one reply for all tasks of a batch that the same API process took."""
        by_queue: defaultdict[str, list[str]] = defaultdict(list)
        for end in ended:
            if end.reply_to:
                by_queue[end.reply_to].append(end.task_id)
        for queue, ids in by_queue.items():
            _replies.send(partial(_reply, queue=queue, body={"task_ids": ids}))


_replies = Hints()


def _reply(producer: Any, queue: str, body: object, **options: object) -> None:  # noqa: ANN401 - the stubs lack half of it
    producer.publish(
        body, exchange="", routing_key=queue, serializer="json", delivery_mode=1, **options
    )
    if producer.connection.transport.driver_type == "redis":
        # Redis makes the list of an API process that is gone: it expires.
        with producer.channel.conn_or_acquire() as client:
            client.expire(queue, 600)


@dataclass(frozen=True)
class _Outcome:
    """The end of an attempt that claim.py did not record."""

    task_id: str
    attempt: int
    worker: str
    state: str
    result: object
    tell: Callable[[], None]

    def record(self) -> None:
        """Write the ledger; tell when that ended the task. Raises StoreUnavailable."""
        error = plain(self.result if isinstance(self.result, BaseException) else str(self.result))
        with transaction() as connection:
            if self.state == states.REVOKED:
                revoked = ledger.revoke(connection, self.task_id, error, self.attempt)
                state = REVOKED if revoked else None
            else:
                # A lost process is no reason to wait; a task that takes too long is.
                lost = isinstance(self.result, WorkerLostError)
                delay = 0.0 if lost else backoff(self.attempt)
                state = ledger.fail(
                    connection, self.task_id, self.attempt, error, self.worker, delay=delay
                )
        if state is None:
            return
        logger.warning("%s: %s", state, error, extra=about(self.task_id, self.attempt))
        if state != RETRY:
            # Not in the lease's thread: the broker may take seconds.
            threading.Thread(target=self.tell, name="news", daemon=True).start()


def _record_in_child(outcome: _Outcome) -> None:
    """Record an error that arose in a child outside of claim.py; never raises."""
    try:
        retry_while_unavailable(outcome.record)
    except Exception:
        logger.exception(
            "an error of a task could not be recorded; the task is found as lost and runs again",
            extra=about(outcome.task_id, outcome.attempt),
        )


@dataclass(frozen=True)
class _Revoke:
    """A revoke of a task that waits, to be recorded by the lease's thread of any worker."""

    task_id: str
    error: str

    def record(self) -> None:
        """Write the ledger, unless the task runs or has ended. Raises StoreUnavailable."""
        with transaction() as connection:
            revoked = ledger.revoke(connection, self.task_id, plain(self.error))
        if revoked:
            logger.info("REVOKED before it started", extra=about(self.task_id, revoked))


def _attempt(request: Context | None) -> int:
    return getattr(request, ATTEMPT_HEADER, None) or 1
