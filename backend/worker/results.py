"""The result backend: replies about outcomes that the ledger has.

A worker of ours asks Celery to store nothing. Celery itself stores one thing: that a task was
revoked.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, Any

from celery import states
from celery.backends.rpc import RPCBackend
from celery.exceptions import TaskRevokedError
from pydantic_core import from_json

from backend.broker.wire import is_task_id
from backend.errors import TaskError
from backend.states import REVOKED, SUCCESS
from backend.worker import lease
from backend.worker.hints import Hints
from backend.worker.unreported import Revoke

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.broker.wire import Delivery
    from backend.db.ledger import Outcome


class LedgerResultBackend:
    """What both backends have in common; mixed in before a backend of Celery's."""

    def store_result(
        self, task_id: str, result: object, state: str, *_: object, **__: object
    ) -> object:
        """Record a revoke, which Celery has heard of for a task that it may not even have."""
        if state == states.REVOKED and is_task_id(task_id):
            lease.report(Revoke(task_id, str(result)))
        return result

    def get_state(self, task_id: str) -> str:  # noqa: ARG002 - Celery's signature
        """Return PENDING: Celery asks before it marks a task as revoked, and the ledger decides."""
        return states.PENDING

    def reply(self, ended: Sequence[tuple[Delivery, Outcome]]) -> None:
        """Send the outcomes of deliveries to whoever asked for them, or drop them; never raises."""
        raise NotImplementedError


def value_of(outcome: Outcome) -> object:
    """Return a task's value; its error as an exception where it has none."""
    if outcome.state == SUCCESS:
        return from_json(outcome.result or "null")
    kind = TaskRevokedError if outcome.state == REVOKED else TaskError
    return kind(outcome.error)


class RpcResults(LedgerResultBackend, RPCBackend):
    """Replies to the API process that took the task, or to whoever called it."""

    encode_result: Any  # Celery's; the stubs leave it out

    def reply(self, ended: Sequence[tuple[Delivery, Outcome]]) -> None:
        """Send one message to each queue: as Celery does for one task, the ids of several."""
        by_queue: defaultdict[str, list[tuple[Delivery, Outcome]]] = defaultdict(list)
        for delivery, outcome in ended:
            if delivery.reply_to:
                by_queue[delivery.reply_to].append((delivery, outcome))
        for queue, ends in by_queue.items():
            if len(ends) > 1:
                ids = {"task_ids": [outcome.id for _, outcome in ends]}
                _replies.send(partial(_publish, queue=queue, body=ids))
                continue
            ((delivery, outcome),) = ends
            body = {
                "task_id": outcome.id,
                "status": outcome.state,
                "result": self.encode_result(value_of(outcome), outcome.state),
                "traceback": None,
                "children": [],
            }
            correlation_id = delivery.correlation_id or outcome.id
            _replies.send(partial(_publish, queue=queue, body=body, correlation_id=correlation_id))


_replies = Hints()


def _publish(producer: Any, queue: str, body: object, **options: object) -> None:  # noqa: ANN401 - the stubs lack half of it
    producer.publish(
        body, exchange="", routing_key=queue, serializer="json", delivery_mode=1, **options
    )
    if producer.connection.transport.driver_type == "redis":
        # Redis makes the list of an API process that is gone: it expires.
        with producer.channel.conn_or_acquire() as client:
            client.expire(queue, 600)
