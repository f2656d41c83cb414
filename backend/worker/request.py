"""Celery's request class: checks a message's fields, leaves revokes of our tasks to the ledger."""

from __future__ import annotations

import logging
import signal
from types import NoneType
from typing import TYPE_CHECKING, Any

from celery.exceptions import InvalidTaskError, NotRegistered, Terminated, TimeLimitExceeded
from celery.worker import state as celery_state
from celery.worker.request import Request
from celery.worker.state import task_ready

from backend.broker.wire import Delivery, is_task_id
from backend.celery_app import ATTEMPT_HEADER
from backend.tasks.registry import registered
from backend.telemetry import about
from backend.worker import activity, lease
from backend.worker.failures import plain
from backend.worker.unreported import Failure, Revoke

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)

# The largest attempt that the ledger can hold (smallint).
MAX_ATTEMPT = 2**15 - 1
# Seconds, about three years: a timer can still count them.
MAX_SECONDS = 10**8


class LedgerRequest(Request):
    """Celery's request, made only of a message whose fields have the types that Celery expects.

    Celery uses most fields much later, in its event loop, where an error ends the worker.
    Raises InvalidTaskError, or whatever else a message of another shape leads to.
    """

    # Whether a child runs it together with other short tasks.
    in_batch = False

    # Celery's own, which its stubs leave out.
    _already_cancelled: bool
    _already_revoked: bool
    _terminate_on_ack: tuple[Any, int] | None
    _payload: Any

    def __init__(self, message: Any, **options: Any) -> None:  # noqa: ANN401 - kombu's
        super().__init__(message, **options)
        fields = self.request_dict
        _check(fields)
        embedded = self._payload[2]
        if not isinstance(embedded, (dict, NoneType)):
            raise InvalidTaskError("its body's third part is no object")
        attempt = fields.get(ATTEMPT_HEADER)
        self.delivery = Delivery(
            self.id,
            attempt or 1,
            fields["task"],
            fields["args"],
            fields["kwargs"],
            fields["reply_to"],
            fields["correlation_id"],
            str(self.delivery_info["routing_key"]),
            external=attempt is None,
            callbacks=any((embedded or {}).values()),
        )

    @property
    def attempt(self) -> int:
        """The ledger's number of the attempt; 1 for a message without one."""
        return self.delivery.attempt

    @property
    def log(self) -> Mapping[str, object]:
        """The `extra` of a log line about it."""
        return about(self.id, self.attempt)

    def revoked(self) -> bool:
        """Return whether a revoke or its expiry ends the task before it starts; end it then.

        Workers remember revoked ids for hours, and a task may get another attempt meanwhile. So
        for a message of ours only the ledger decides, when the attempt is claimed.
        """
        if not self.delivery.external:
            return self._already_revoked
        revoked: bool = super().revoked()
        return revoked

    def sent(self, result: Any) -> None:  # noqa: ANN401 - a weak reference to billiard's
        """Note the pool's handle, by which a revoke reaches a request that no child has begun."""
        self._apply_result = result

    def on_failure(self, exc_info: Any, *_: object) -> None:  # noqa: ANN401 - billiard's ExceptionInfo
        """Record the end of an attempt whose child did not report one, unless it was stopped."""
        # billiard wraps an error to keep its traceback.
        error = getattr(exc_info.exception, "exc", exc_info.exception)
        if self._already_revoked or self._already_cancelled:
            task_ready(self)
        elif self._terminate_on_ack and isinstance(error, Terminated):
            # Revoked while the pool had it, before a child began.
            self._announce_revoked("terminated", True, str(error), False)  # noqa: FBT003 - Celery's
        else:
            self.end_with(error)

    def on_timeout(self, soft: bool, timeout: float) -> None:  # noqa: FBT001 - Celery's signature
        """Record that the attempt overran its time limit; the pool has killed its child."""
        if soft:
            super().on_timeout(soft, timeout)
        elif not celery_state.should_terminate:
            self.end_with(TimeLimitExceeded(timeout))

    def end_with(self, error: BaseException) -> None:
        """End an attempt with an error that no child reports; the lease's thread records it."""
        task_ready(self)
        activity.count_failure()
        self.send_event("task-failed", exception=plain(error), traceback="")
        lease.report(Failure(self.delivery, self.hostname, error))

    def _announce_revoked(
        self,
        reason: str,
        terminated: bool,  # noqa: FBT001 - Celery's signature
        signum: object,
        expired: bool,  # noqa: FBT001 - the same
    ) -> None:
        """End a revoked attempt, as Celery does; the lease's thread records it."""
        task_ready(self)
        self.send_event("task-revoked", terminated=terminated, signum=signum, expired=expired)
        lease.report(Revoke(self.id, reason, self.delivery))
        self.acknowledge()
        self._already_revoked = True

    def leave_batch(self) -> None:
        """Forget the child that ran it in a batch: it is to run alone, in any child."""
        self.in_batch = False
        self.worker_pid = self.time_start = None
        celery_state.active_requests.discard(self)

    def kill(self, pool: Any) -> None:  # noqa: ANN401 - no class of pools in the stubs
        """Kill the child that runs this attempt, unless the attempt has ended or is in a batch.

        For the event loop's thread only. There a child gets its next task only after the result
        of the last one was handled, so the child of an active request runs nothing else. To
        Celery it is a cancel: unlike a revoke it records nothing.
        """
        if self in celery_state.active_requests and not self.in_batch:
            logger.warning("stopping an attempt that no longer counts", extra=self.log)
            self.cancel(pool, signal=signal.SIGKILL, emit_retry=False)


def _check(fields: Mapping[str, Any]) -> None:
    """Raise InvalidTaskError naming the first field that is wrong; never its value."""
    for name, types in _TYPES.items():
        if not isinstance(fields.get(name), types):
            raise InvalidTaskError(f"its {name} has another type")
    if fields["task"] not in registered():
        raise NotRegistered(fields["task"])  # Celery has some of its own
    if not is_task_id(fields["id"]):
        raise InvalidTaskError("its id is no UUID in lower case; send it without an id")
    attempt = fields.get(ATTEMPT_HEADER)
    if attempt is not None:
        if not (type(attempt) is int and 0 < attempt <= MAX_ATTEMPT):
            raise InvalidTaskError(f"its attempt is no number from 1 to {MAX_ATTEMPT}")
        if fields["kwargs"] or [type(argument) for argument in fields["args"]] != [str]:
            raise InvalidTaskError("its arguments are no JSON text")
    limits = fields.get("timelimit")
    hard_and_soft = 2
    if limits and not (len(limits) == hard_and_soft and all(map(_is_limit, limits))):
        raise InvalidTaskError("its timelimit is no pair of seconds")
    if not all(isinstance(name, str) for name in fields.get("stamped_headers") or ()):
        raise InvalidTaskError("its stamped_headers are no names")


def _is_limit(limit: object) -> bool:
    return limit is None or (
        isinstance(limit, int | float) and not isinstance(limit, bool) and 0 <= limit <= MAX_SECONDS
    )


_TEXT = (str, NoneType)
_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "id": str,
    "args": (list, tuple),
    "kwargs": dict,
    "reply_to": _TEXT,
    "correlation_id": _TEXT,
    "shadow": _TEXT,
    "timelimit": (list, tuple, NoneType),
    "stamped_headers": (list, NoneType),
    "stamps": (dict, NoneType),
}
