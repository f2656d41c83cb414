"""A reply about tasks that have ended: a worker encodes it, the API process decodes it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from backend.broker.queues import prefixed
from backend.db.records import TaskRecord
from backend.states import State

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_QUEUES = "replies."


def new_reply_queue() -> str:
    """Return a name for the reply queue of an API process."""
    return prefixed(f"{_QUEUES}{uuid4()}")


def is_reply_queue(name: str) -> bool:
    """Return whether a queue belongs to an API process; others belong to Celery's clients."""
    return name.startswith(prefixed(_QUEUES))


def encode(outcomes: Sequence[TaskRecord]) -> str:
    """Return a reply as JSON text: one outcome, or only the ids of several tasks."""
    first, *others = outcomes
    if others:
        return json.dumps({"task_ids": [outcome.id for outcome in outcomes]})
    # The result is a text in the text: the API answers with the same bytes as the ledger has.
    outcome = {"state": first.state, "result": first.result, "error": first.error}
    return json.dumps({"task_id": first.id, "outcome": outcome})


def decode(body: Any) -> Mapping[str, TaskRecord | None]:  # noqa: ANN401 - any message
    """Return the outcome of each task that a reply is about; None if the ledger must be read.

    `body`: decoded JSON, of any form. A worker of the version before sends no outcome.
    """
    if not isinstance(body, dict):
        return {}
    if isinstance(task_ids := body.get("task_ids"), list):
        return {task_id: None for task_id in task_ids if isinstance(task_id, str)}
    task_id = body.get("task_id")
    return {task_id: _outcome(task_id, body)} if isinstance(task_id, str) else {}


def _outcome(task_id: str, body: Mapping[str, Any]) -> TaskRecord | None:
    """Return the outcome of a task that has succeeded, which is final; else None.

    A client may have retried a task that failed or was revoked, before the reply came.
    """
    match body.get("outcome"):
        case {"state": State.SUCCESS, "result": str(result)}:
            return TaskRecord(task_id, state=State.SUCCESS, result=result)
    return None
