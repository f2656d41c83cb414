"""Requests of the task `slow`, as a worker makes them from messages."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from kombu import Message

import backend.worker  # noqa: F401 - registers the tasks
from backend.broker.app import app
from backend.worker.parent import lease
from backend.worker.parent.request import LedgerRequest

if TYPE_CHECKING:
    import pytest


def request_of(monkeypatch: pytest.MonkeyPatch, outcomes: list[Any], **headers: object) -> Any:  # noqa: ANN401 - so that its insides can be set
    """Return a request of the task `slow`; calls that would write outcomes are recorded."""
    task: Any = app.tasks["slow"]

    noting = SimpleNamespace(write_soon=lambda write: outcomes.append((write.func, *write.args)))
    monkeypatch.setattr(lease, "_lease", noting)
    make: Any = Message  # the stubs want a real channel
    message = make(
        json.dumps([['{"duration": 0}'] if "ledger_attempt" in headers else [0], {}, {}]),
        content_type="application/json",
        content_encoding="utf-8",
        headers={"task": "slow", "id": str(uuid4()), **headers},
        properties={"reply_to": "", "correlation_id": ""},
        delivery_info={"routing_key": "tasks"},
    )
    return LedgerRequest(message, app=app, task=task)
