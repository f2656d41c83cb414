"""One attempt of a task: adopt, claim, give back, record an error."""

from __future__ import annotations

import json
import logging
import math
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

from pydantic import RootModel
from sqlalchemy.exc import IntegrityError

from backend.db import ledger, limits, locked, queries
from backend.db.queries import committed
from backend.db.session import transaction
from backend.errors import AtLimit, Duplicate, Fenced, LeaseExpired, TaskError
from backend.json_text import compact
from backend.states import RETRY, STARTED
from backend.telemetry.logs import about
from backend.worker.attempt.retry import retry_while_unavailable
from backend.worker.failures import backoff

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sqlalchemy import Connection

    from backend.broker.wire import Delivery
    from backend.db.limits import Limit
    from backend.db.session import Executor
    from backend.states import State
    from backend.task import Task

logger = logging.getLogger(__name__)


class Attempt:
    """One attempt of a task, from its claim to its reply."""

    def __init__(self, worker: str, delivery: Delivery, spec: Task) -> None:
        self.worker = worker
        self.delivery = delivery
        self.spec = spec
        self.id = delivery.id
        self.number = delivery.attempt
        # When its time limit ends it (monotonic).
        self.ends_at = math.inf
        # In a worker of threads: it has ended in the ledger, or is about to. It records no error.
        self.fenced = False
        # In a batch: a call for several failed, so the function is called for this one only.
        self.called_alone = False
        # How often its function has lost PostgreSQL and was run again within the attempt.
        self.losses = 0
        # PostgreSQL's id of the transaction that claimed the attempt; None if the same one also
        # ends it.
        self._claim_transaction_id: str | None = None

    @property
    def started(self) -> bool:
        """Return whether a transaction has claimed it for good: its task is STARTED."""
        return self._claim_transaction_id is not None

    @property
    def time_limit(self) -> float:
        """Return how many seconds it may take."""
        return self.delivery.time_limit or self.spec.time_limit

    @property
    def label(self) -> str:
        """Return its name in log lines."""
        return f"{self.spec.name}[{self.id}]"

    @property
    def log_extra(self) -> Mapping[str, object]:
        """Return the `extra` of a log line about it."""
        return about(self.id, self.number)

    @cached_property
    def arguments(self) -> str:
        """Return the arguments as JSON text. Raises TaskError.

        An external task has them by name, or by position in the order of the model's fields.
        """
        args, kwargs = self.delivery.args, self.delivery.kwargs
        if not self.delivery.external:
            return str(args[0])
        if self.delivery.callbacks:
            raise TaskError(
                "This worker sends no callbacks, chains or chords of Celery: submit the next task"
                " when this one has ended"
            )
        model = self.spec.arguments
        by_name = zip(model.model_fields, args, strict=False)
        arguments: object = {**dict(by_name), **kwargs}
        if args and issubclass(model, RootModel):
            arguments = args[0]
        try:
            return compact(json.dumps(arguments, allow_nan=False))
        except (ValueError, RecursionError) as error:
            raise TaskError(
                "The arguments do not fit: they have NaN or infinity, or are nested too deeply"
            ) from error

    @cached_property
    def limit(self) -> Limit | None:
        """Return what limits how many of these tasks run at once; None if nothing does."""
        if not self.spec.max_running:
            return None
        try:
            return self.spec.limit(self.arguments)
        except TaskError:  # reading them after the claim raises it again
            return self.spec.limit("null")

    @property
    def needs_flush(self) -> bool:
        """Return whether its claim has to be on disk. Usually only the outcome has to.

        It has to be where a second claim after a crash of PostgreSQL would be an attempt too many,
        or would have nothing to claim.
        """
        most = self.delivery.max_attempts or self.spec.max_attempts
        return self.delivery.external or self.number >= most

    def claimed_by(self, transaction_id: str) -> None:
        """Record which transaction has claimed it, before that commits."""
        self._claim_transaction_id = transaction_id

    def claim(self, *, begun: bool = False) -> None:
        """Claim it in a separate transaction; an external task is submitted first.

        `begun`: a group has held it. So it is in time, and the parent process may have claimed it
        for this one, which could not do it.

        Raises Duplicate if the task does not wait for it, AtLimit if it waits for others to end,
        LeaseExpired, StoreUnavailable.
        """
        with transaction(lazy=True) as connection:
            admitted = self._claim(connection, begun=begun)
        if not admitted:
            raise AtLimit

    def _claim(self, connection: Connection, *, begun: bool) -> bool:
        """Claim it; return False if its limit was reached.

        Then it was parked, which AtLimit would roll back. Raises Duplicate, LeaseExpired.
        """
        claim = None
        if self.adopt(connection):
            if self.limit:
                claim = limits.claim(
                    connection,
                    self.id,
                    self.number,
                    self.worker,
                    self.limit,
                    declared=self.spec.max_attempts,
                )
                if claim is None:
                    before = self._claim_transaction_id
                    return bool(before and committed(connection, before))
            else:
                claim = ledger.claim(
                    connection,
                    {self.id: self.number},
                    self.worker,
                    declared=self.spec.max_attempts,
                    flush=self.needs_flush,
                    in_time=begun,
                )
        if claim is None or not claim.ids:
            # The connection may have broken during the previous commit. Checked last: the
            # statements have waited for the row's lock, so that commit is over.
            if self._claim_transaction_id and committed(connection, self._claim_transaction_id):
                return True
            if claim is None or not (begun and self._is_started(connection)):
                raise Duplicate
        elif not claim.leased:
            # The reconciler would take the task away at once. Retried until the lease is back.
            raise LeaseExpired
        self.claimed_by(claim.transaction_id)
        return True

    def _is_started(self, connection: Executor) -> bool:
        row = locked.lock(connection, [self.id]).get(self.id)
        return row is not None and (row.state, row.worker, row.attempt) == (
            STARTED,
            self.worker,
            self.number,
        )

    def adopt(self, connection: Executor) -> bool:
        """Submit the task if another program has sent it; return False for a known id."""
        if not self.delivery.external:
            return True
        try:
            arguments = self.arguments
        except TaskError:
            arguments = "null"  # the error is stored in this row; later `arguments` raises it again
        new = self.spec.record(self.id, arguments, self.delivery.reply_to)
        if queries.known(connection, [self.id]):
            return False
        try:
            # On a savepoint, so that the transaction can go on when another delivery was faster.
            with connection.begin_nested():
                ledger.submit(connection, [new])
        except IntegrityError:
            return False
        return True

    def refuse_if_fenced(self) -> None:
        """Raise Fenced if the attempt no longer counts."""
        if self.fenced:
            raise Fenced

    def give_back(self, reason: str) -> None:
        """Reschedule the task without using up an attempt, when PostgreSQL takes writes again.

        Raises StoreUnavailable if it stays away, and Fenced.
        """
        logger.warning(
            "%s lost PostgreSQL: its writes were rolled back; it runs again, without using up an"
            " attempt, when PostgreSQL can write",
            self.label,
            extra=self.log_extra,
        )
        delay = backoff(self.spec, self.number)
        retry_while_unavailable(lambda: self.put_off(reason, delay))

    def put_off(self, reason: str, seconds: float, error_type: str | None = None) -> State | None:
        """Reschedule the task without using up an attempt; the next one is due in `seconds`.

        `error_type`: the class of the error, if the task has asked for it. Returns RETRY, None if
        the attempt is not the current one. Raises StoreUnavailable, Fenced.
        """
        with self._ending() as connection:
            if connection is None:
                return None
            again = ledger.reschedule(
                connection,
                {self.id: self.number},
                self.worker,
                # Not started if a group has locked it.
                waiting=not self.started,
                free=True,
                error=reason,
                error_type=error_type,
                delay=seconds,
            )
        return RETRY if again else None

    def record_error(self, error: str, error_type: str, *, retry: bool) -> State | None:
        """Record an error and the name of its class; return the new state.

        Returns None if the attempt is not the current one. Raises StoreUnavailable, Fenced.
        """
        with self._ending() as connection:
            if connection is None:
                return None
            return locked.fail(
                connection,
                self.id,
                self.number,
                error,
                self.worker,
                declared=self.spec.max_attempts,
                # If it waits although its claim was committed, PostgreSQL has lost the claim in
                # a failover, and the task is left to its next delivery.
                waiting=not self.started,
                retry=retry,
                delay=backoff(self.spec, self.number),
                error_type=error_type,
            )

    @contextmanager
    def _ending(self) -> Iterator[Connection | None]:
        """Give a transaction that ends the attempt; None if another delivery has the task.

        An external task with `one_commit` is submitted first: its row was rolled back. Raises
        StoreUnavailable, Fenced.
        """
        self.refuse_if_fenced()
        with transaction() as connection:
            if self.spec.one_commit and not self.adopt(connection):
                yield None
                return
            with limits.ending(connection, self.limit):
                yield connection
