"""Answers the API's question what the worker holds."""

from __future__ import annotations

from typing import Any

import celery.worker.control
import celery.worker.state
from celery.worker.control import inspect_command

from backend.broker.queues import queue
from backend.db.records import SHORT_TASKS
from backend.states import ACTIVE, RESERVED, SCHEDULED

# Celery's sets of requests; its stubs know only some of them.
celery_state: Any = celery.worker.state
_control: Any = celery.worker.control


@inspect_command(name="active_queues")
def active_queues(state: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - Celery's panel state
    """List the queues this worker consumes, that of short tasks too, for Flower's broker page."""
    consumed: list[dict[str, Any]] = _control.active_queues(state)
    if state.consumer.takes_short_tasks:
        consumed.append(dict(queue(SHORT_TASKS).as_dict(recurse=True)))
    return consumed


@inspect_command(name="holdings")
def holdings(_state: Any) -> list[tuple[str, str]]:  # noqa: ANN401 - Celery's panel state
    """List what this worker holds as (task id, ACTIVE, SCHEDULED or RESERVED).

    Stock Celery needs three commands for it, and each repeats every task's arguments.
    """
    active = {request.id: ACTIVE for request in celery_state.active_requests}
    scheduled = {request.id: SCHEDULED for request in celery_state.scheduled_requests}
    reserved = {request.id: RESERVED for request in celery_state.reserved_requests}
    return list({**scheduled, **reserved, **active}.items())
