"""Celery's request class: checks a message's fields, leaves revokes of our tasks to the ledger."""

from __future__ import annotations

import logging
import signal
from types import NoneType
from typing import TYPE_CHECKING, Any

from celery.exceptions import Ignore, InvalidTaskError, Terminated
from celery.worker import state as celery_state
from celery.worker.request import Request

from backend.celery_app import ATTEMPT_HEADER, is_task_id
from backend.errors import ReportedError
from backend.telemetry import about
from backend.worker import activity

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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
    _worker_lost_info: Callable[[BaseException], Any]
    _payload: Any

    def __init__(self, message: Any, **options: Any) -> None:  # noqa: ANN401 - kombu's
        super().__init__(message, **options)
        _check(self.request_dict)
        # The third part of a body; Celery unpacks it when a child is lost.
        if not isinstance(self._payload[2], (dict, NoneType)):
            raise InvalidTaskError("its body's third part is no object")

    @property
    def attempt(self) -> int:
        """The attempt of the ledger's that the message is for; 1 for a message without one."""
        attempt: int | None = self.request_dict.get(ATTEMPT_HEADER)
        return attempt or 1

    @property
    def log(self) -> Mapping[str, object]:
        """The `extra` of a log line about it."""
        return about(self.id, self.attempt)

    @property
    def _of_the_ledger(self) -> bool:
        """Whether the ledger made the message; else it came from Flower or `celery call`."""
        return self.request_dict.get(ATTEMPT_HEADER) is not None

    def revoked(self) -> bool:
        """Return whether a revoke or its expiry ends the task before it starts; end it then.

        Workers remember revoked ids for hours, and a task may get another attempt meanwhile. So
        for a message of ours only the ledger decides, when the attempt is claimed.
        """
        if self._of_the_ledger:
            return self._already_revoked
        revoked: bool = super().revoked()
        return revoked

    def on_failure(
        self,
        exc_info: Any,  # noqa: ANN401 - billiard's ExceptionInfo
        send_failed_event: bool = True,  # noqa: FBT001, FBT002 - Celery's signature
        return_ok: bool = False,  # noqa: FBT001, FBT002 - the same
    ) -> None:
        """Record an end that a child did not, as Celery does.

        A pool that could not send a task gives it up if its id was once revoked. For a message of
        ours that is a lost attempt, unless this attempt was itself to be stopped.
        """
        stopped = self._already_revoked or self._already_cancelled or self._terminate_on_ack
        # billiard wraps an error to keep its traceback.
        error = getattr(exc_info.exception, "exc", exc_info.exception)
        if isinstance(error, MemoryError):
            # The MemoryError is the child's, but Celery would end the worker for it.
            exc_info.exception = ReportedError("MemoryError")
        if self._of_the_ledger and not stopped and isinstance(error, Terminated):
            exc_info = self._worker_lost_info(error)
        if not (stopped or isinstance(error, Ignore)):
            activity.count_failure()
        super().on_failure(exc_info, send_failed_event, return_ok)

    def on_timeout(self, soft: bool, timeout: float) -> None:  # noqa: FBT001 - Celery's signature
        """Record that the attempt overran its time limit, as Celery does."""
        super().on_timeout(soft, timeout)
        if not soft:
            activity.count_failure()

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
