"""Celery's request class, with our Delivery; the ledger decides about revokes of our tasks."""

from __future__ import annotations

import logging
import signal
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from celery.exceptions import Terminated, TimeLimitExceeded
from celery.worker import state as celery_state
from celery.worker.request import Request
from celery.worker.state import task_ready

from backend.broker import wire
from backend.broker.app import app
from backend.broker.bundle import went_back
from backend.registry import registered
from backend.telemetry.logs import about
from backend.worker import current_line
from backend.worker.failures import error_text
from backend.worker.parent import activity, lease
from backend.worker.parent.unreported import record_failure, record_revoke

if TYPE_CHECKING:
    from collections.abc import Sequence

logger = logging.getLogger(__name__)
# For messages that cannot be returned because the connection is lost: the consumer logs that, and
# the broker delivers them again.
_silent = logging.getLogger(f"{__name__}.returned")
_silent.setLevel(logging.CRITICAL + 1)


class LedgerRequest(Request):
    """Celery's request, made only from a message that `wire.decode` can decode.

    The constructor raises what `wire.decode` raises, or any other error for a malformed message.
    """

    # Whether it shares a job with others, or will. Then the lease does not list it.
    shares_job = False
    # Whether the event "task-received" was sent. Celery does not send it for a part of a bundle.
    announced = True

    # Celery's own, which its stubs leave out.
    _already_cancelled: bool
    _already_revoked: bool
    _terminate_on_ack: tuple[Any, int] | None
    _payload: Any
    _on_ack: Any
    _on_reject: Any
    _connection_errors: Any

    def __init__(self, message: Any, **options: Any) -> None:  # noqa: ANN401 - kombu's
        super().__init__(message, **options)
        queue = str(self.delivery_info["routing_key"])
        self.delivery = wire.decode(self.request_dict, self._payload[2], queue)
        # A part of a bundle has no priority; its bundle has.
        self.priority = wire.priority_of(getattr(message, "received", message))

    def revoked(self) -> bool:
        """Return whether a revoke or its expiry ends the task before it starts; if so, end it.

        Workers remember revoked ids for hours, and a task may get another attempt in that time. So
        for a message of ours only the ledger decides, when the attempt is claimed.
        """
        if not self.delivery.external:
            return self._already_revoked
        revoked: bool = super().revoked()
        return revoked

    def set_pool_result(self, result: Any) -> None:  # noqa: ANN401 - a weak reference to billiard's
        """Keep the pool's result object; a revoke uses it before a child has begun."""
        self._apply_result = result

    def announce(self) -> None:
        """Send the event "task-received", unless it was sent."""
        if self.announced:
            return
        self.announced = True
        self.send_event(
            "task-received",
            name=self.name,
            args=self.argsrepr,
            kwargs=self.kwargsrepr,
            retries=0,
            eta=None,
            expires=None,
            root_id=self.root_id,
            parent_id=self.parent_id,
        )

    def child_lost(self, error: BaseException) -> None:
        """Record the end of an attempt whose child did not report one, unless it was stopped."""
        if self._already_revoked or self._already_cancelled or celery_state.should_terminate:
            task_ready(self)  # a worker that stops hands back what runs (lease.py)
        elif self._terminate_on_ack and isinstance(error, Terminated):
            # Revoked while the pool had it, before a child began.
            self._announce_revoked("terminated", True, str(error), False)  # noqa: FBT003 - Celery's
        elif isinstance(error, TimeLimitExceeded):
            pid: Any = self.worker_pid  # the stubs call it a text
            line = current_line.answer(pid, registered()[self.delivery.name])
            self.end_with(TimeLimitExceeded(*error.args, line))
        else:
            self.end_with(error)

    def end_with(self, error: BaseException) -> None:
        """End an attempt with an error that no child reports; the lease's thread records it."""
        task_ready(self)
        activity.count_failure()
        self.send_event("task-failed", exception=error_text(error), traceback="")
        lease.write_soon(partial(record_failure, self.delivery, self.hostname, error))

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
        record = partial(record_revoke, self.id, reason, time.monotonic(), self.delivery)
        lease.write_soon(record)
        self.acknowledge()
        self._already_revoked = True

    def leave_job(self) -> None:
        """Forget the child that had it together with others: it will run alone, in any child."""
        self.shares_job = False
        self.worker_pid = self.time_start = None
        celery_state.active_requests.discard(self)

    def return_to_broker(self) -> None:
        """Return the message to the broker, which gives it to any worker. No child has begun it."""
        task_ready(self)
        self._on_reject(_silent, self._connection_errors, requeue=True)
        self.acknowledged = True

    def merge_into_held(self) -> bool:
        """Return whether this worker holds the attempt already, from an earlier delivery.

        If the held message went back to the broker or its connection was lost, the held request
        gets this message. Otherwise this message is acknowledged.
        """
        held = celery_state.requests.get(self.id)
        if held is None or held.delivery.attempt != self.delivery.attempt:
            return False
        lost = held.message.channel is not self.message.channel
        if held.acknowledged or not (lost or went_back(held.message)):
            self.acknowledge()
        else:
            held._message = self.message  # noqa: SLF001 - this class
            held._on_ack, held._on_reject = self._on_ack, self._on_reject  # noqa: SLF001 - the same
        return True

    def forget_kill(self) -> None:
        """Forget that a child was to be killed when it begins this attempt, which has ended."""
        self._terminate_on_ack = None

    def kill(self, pool: Any, *, revoked: bool) -> None:  # noqa: ANN401 - no stubs of Celery's pools
        """Kill the child that runs this attempt, unless the attempt has ended or shares a job.

        `revoked`: the task is REVOKED, so Flower gets an event.

        For the event loop's thread only. There a child gets its next task only after the result
        of the last one was handled, so the child of an active request runs nothing else. To
        Celery it is a cancel: unlike a revoke it records nothing.
        """
        if self in celery_state.active_requests and not self.shares_job:
            why = "was revoked" if revoked else "has ended or has a newer attempt"
            extra = about(self.id, self.delivery.attempt)
            logger.warning("killing an attempt, because its task %s", why, extra=extra)
            self.cancel(pool, signal=signal.SIGKILL, emit_retry=False)
            if revoked:
                self.send_event("task-revoked", terminated=True, signum="9", expired=False)


def part_of_bundle(part: Any, consumer: Any) -> LedgerRequest:  # noqa: ANN401 - kombu's, Celery's
    """Return the request for an attempt that came in a bundle. Raises as LedgerRequest does."""
    request = LedgerRequest(
        part,
        # Later, as Celery does it: an error of the connection would end what acknowledges.
        on_ack=partial(consumer.call_soon_ack, part.ack_log_error),
        on_reject=partial(consumer.call_soon_ack, part.reject_log_error),
        app=app,
        hostname=consumer.hostname,
        eventer=consumer.event_dispatcher,
        task=app.tasks[part.headers["task"]],
        connection_errors=consumer.connection_errors,
        body=part.body,
        headers=part.headers,
    )
    request.shares_job = True
    request.announced = False
    return request


def drop_duplicates(requests: Sequence[LedgerRequest]) -> list[LedgerRequest]:
    """Acknowledge duplicates, and tasks that were revoked while they waited; return the others."""
    by_id = {request.id: request for request in requests if not request.revoked()}
    for request in requests:
        if by_id.get(request.id) is not request:
            request.acknowledge()
            task_ready(request)
    return list(by_id.values())
