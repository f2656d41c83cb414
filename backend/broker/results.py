"""The result backend: replies about outcomes that the ledger has, from workers and API processes.

Nobody stores results through Celery. A worker's Celery calls `store_result` itself only for
revokes; other calls are ignored.
"""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

from celery import states
from celery.backends.rpc import RPCBackend
from celery.exceptions import TaskRevokedError

from backend.broker.hints import Hints
from backend.broker.reply import encode, is_reply_queue
from backend.errors import TaskError
from backend.ids import is_task_id
from backend.states import REVOKED, SUCCESS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backend.db.records import TaskRecord

    # The queue for the reply, the correlation id that the sender has asked for, and the outcome.
    Ended = tuple[str | None, str | None, TaskRecord]


class LedgerResultBackend:
    """The common part of both backends; a mixin before a backend of Celery's."""

    # Called with id and reason of a revoked task; a worker sets it (worker/__init__.py).
    on_revoke: ClassVar[Callable[[str, str], None]] = staticmethod(lambda _task_id, _reason: None)

    def store_result(
        self, task_id: str, result: object, state: str, *_: object, **__: object
    ) -> object:
        """Pass a revoke on; return `result`.

        Celery calls this for any id, also for tasks that this worker does not have.
        """
        if state == states.REVOKED and is_task_id(task_id):
            type(self).on_revoke(task_id, str(result))
        return result

    def get_state(self, task_id: str) -> str:  # noqa: ARG002 - Celery's signature
        """Return PENDING: Celery asks before it marks a task as revoked, and the ledger decides."""
        return states.PENDING

    def reply(self, ended: Sequence[Ended]) -> None:
        """Send replies about outcomes, or drop them; never raises."""
        raise NotImplementedError


def exception_of(outcome: TaskRecord) -> Exception:
    """Return a task's error as the exception that Celery's clients expect."""
    kind = TaskRevokedError if outcome.state == REVOKED else TaskError
    return kind(outcome.error)


class RpcResults(LedgerResultBackend, RPCBackend):
    """Replies to the API process that accepted the task, or to the program that sent it."""

    encode_result: Any  # Celery's; the stubs leave it out
    # One for the process: Celery makes a backend for each thread.
    hints: ClassVar[Hints] = Hints()

    def reply(self, ended: Sequence[Ended]) -> None:
        """Send one message to each API process, and Celery's message about each other task."""
        ours: defaultdict[str, list[TaskRecord]] = defaultdict(list)
        for reply_to, correlation_id, outcome in ended:
            if not reply_to:
                continue
            if is_reply_queue(reply_to):
                ours[reply_to].append(outcome)
            else:
                options = {"correlation_id": correlation_id or outcome.id}
                self._send(reply_to, self._result_message(outcome), **options)
        for queue, outcomes in ours.items():
            self._send(queue, encode(outcomes))

    def _result_message(self, outcome: TaskRecord) -> str:
        """Return what Celery's clients read, as JSON text.

        The value is not decoded: Pydantic reads less deeply nested JSON than it writes.
        """
        value = outcome.result or "null"
        if outcome.state != SUCCESS:
            value = json.dumps(self.encode_result(exception_of(outcome), outcome.state))
        rest: dict[str, object] = {
            "task_id": outcome.id,
            "status": outcome.state,
            "traceback": None,
            "children": [],
            "date_done": datetime.now(UTC).isoformat(),
        }
        return f'{json.dumps(rest)[:-1]}, "result": {value}}}'

    def _send(self, queue: str, body: str, **options: str) -> None:
        """Send a reply of JSON text to a queue, or drop it; never raises."""

        def publish(producer: Any) -> None:  # noqa: ANN401 - the stubs lack half of it
            producer.publish(
                body,
                exchange="",
                routing_key=queue,
                content_type="application/json",
                content_encoding="utf-8",
                delivery_mode=1,
                **options,
            )
            if producer.connection.transport.driver_type == "redis":
                # Redis creates the list even if the API process has ended, so it must expire.
                with producer.channel.conn_or_acquire() as client:
                    client.expire(queue, 600)

        self.hints.send(publish)
