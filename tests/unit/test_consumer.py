"""How the worker's parent process drops a message, without a server."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock
from uuid import uuid4

import pytest
from celery.exceptions import NotRegistered

from backend.worker.parent import lease
from backend.worker.parent.consumer import LedgerConsumer
from backend.worker.stray_messages import note_dropped


def dropped(monkeypatch: pytest.MonkeyPatch, headers: dict[str, object]) -> list[object]:
    """Return the calls to the lease's thread when a message of an unknown task is dropped."""
    reported: list[object] = []
    monkeypatch.setattr(
        lease, "write_soon", lambda write: reported.append((write.func, *write.args))
    )
    consumer: Any = LedgerConsumer.__new__(LedgerConsumer)
    consumer.hostname = "a worker"
    message = Mock(headers=headers, delivery_info={"routing_key": "tasks"})
    consumer.on_decode_error(message, NotRegistered("newer"))
    message.ack.assert_called_once_with()
    return reported


def test_a_message_of_an_unknown_task_is_looked_up_outside_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task_id = str(uuid4())
    reported = dropped(monkeypatch, {"id": task_id, "ledger_attempt": 1})
    assert reported == [(note_dropped, "a worker", "tasks", [task_id])]


@pytest.mark.parametrize(
    "headers",
    [{"id": str(uuid4())}, {"id": "none of ours", "ledger_attempt": 1}, {"ledger_attempt": 1}],
    ids=["of another program", "malformed id", "no id"],
)
def test_a_message_not_sent_by_a_relay_is_not_looked_up(
    monkeypatch: pytest.MonkeyPatch, headers: dict[str, object]
) -> None:
    assert dropped(monkeypatch, headers) == []
