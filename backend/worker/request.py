"""A task's message as the worker's parent process sees it: checked, and ruled by the ledger."""

from __future__ import annotations

import logging
import signal
from typing import TYPE_CHECKING, Any

from celery.exceptions import InvalidTaskError, Terminated
from celery.worker import state as celery_state
from celery.worker.request import Request

from backend.celery_app import ATTEMPT_HEADER, is_task_id
from backend.telemetry import about

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

logger = logging.getLogger(__name__)

# The largest attempt that the ledger can hold (smallint).
MAX_ATTEMPT = 2**15 - 1
# Seconds, about three years: a timer can still count them.
MAX_TIME_LIMIT = 10**8


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
        if not isinstance(self._payload[2], dict | None):
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
        if self._of_the_ledger and not stopped and isinstance(error, Terminated):
            exc_info = self._worker_lost_info(error)
        super().on_failure(exc_info, send_failed_event, return_ok)

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
    """Raise InvalidTaskError naming the first field of a wrong type; never its value."""
    for name, (fits, what) in _FIELDS.items():
        if not fits(fields.get(name)):
            raise InvalidTaskError(f"its {name} is no {what}")


def _is_id(value: object) -> bool:
    return isinstance(value, str) and is_task_id(value)


def _is_attempt(value: object) -> bool:
    return value is None or (type(value) is int and 0 < value <= MAX_ATTEMPT)


def _is_text(value: object) -> bool:
    return isinstance(value, str | None)


def _is_time_limits(value: Any) -> bool:  # noqa: ANN401 - whatever was sent
    """Return whether it is nothing or the pair (hard, soft), each None or seconds."""
    if value is None:
        return True
    if not isinstance(value, list | tuple) or len(value) != len(("hard", "soft")):
        return False
    return all(
        limit is None or (type(limit) in {int, float} and 0 <= limit <= MAX_TIME_LIMIT)
        for limit in value
    )


def _is_names(value: object) -> bool:
    return value is None or (
        isinstance(value, list) and all(isinstance(name, str) for name in value)
    )


_FIELDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "id": (_is_id, "UUID in lower case"),
    ATTEMPT_HEADER: (_is_attempt, f"number from 1 to {MAX_ATTEMPT}"),
    "args": (lambda value: isinstance(value, list | tuple), "list"),
    "kwargs": (lambda value: isinstance(value, dict), "object"),
    "reply_to": (_is_text, "text"),
    "correlation_id": (_is_text, "text"),
    "shadow": (_is_text, "text"),
    "timelimit": (_is_time_limits, "pair of seconds"),
    "stamped_headers": (_is_names, "list of names"),
    "stamps": (lambda value: isinstance(value, dict | None), "object"),
}
