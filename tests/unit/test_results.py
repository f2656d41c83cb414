"""Replies about outcomes: their queues and their form."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from backend.broker.app import app
from backend.broker.reply import decode, new_reply_queue
from backend.db.records import TaskRecord
from backend.states import FAILURE, REVOKED, SUCCESS, State

pytestmark = pytest.mark.usefixtures("configured")


@pytest.fixture
def replies(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Give a list of (queue, body) of each reply."""
    sent: list[tuple[str, Any]] = []

    def publish(body: str, *, routing_key: str, **_: object) -> None:
        sent.append((routing_key, json.loads(body)))

    producer = Mock(publish=publish)
    hints = SimpleNamespace(send=lambda send: send(producer))
    monkeypatch.setattr(app.backend, "hints", hints, raising=False)
    return sent


def reply(*ends: tuple[str, str | None, State, str]) -> None:
    """Reply to tasks of (id, reply queue, state, value or error)."""
    backend: Any = app.backend
    ended = []
    for task_id, queue, state, text in ends:
        value, error = (text, None) if state == SUCCESS else (None, text)
        ended.append((queue, None, TaskRecord(task_id, state=state, result=value, error=error)))
    backend.reply(ended)


def test_tasks_of_an_api_process_share_a_reply(replies: list[tuple[str, Any]]) -> None:
    here, there = new_reply_queue(), new_reply_queue()
    reply(
        ("a", here, SUCCESS, "1"),
        ("b", there, SUCCESS, "1.0e-7"),
        ("c", here, SUCCESS, "3"),
        ("d", None, SUCCESS, "4"),
    )
    (to_here, ids), (to_there, outcome) = replies
    assert (to_here, decode(ids)) == (here, {"a": None, "c": None})
    end = TaskRecord("b", state=SUCCESS, result="1.0e-7")
    assert (to_there, decode(outcome)) == (there, {"b": end})


@pytest.mark.parametrize(
    ("body", "ids"),
    [
        (None, set()),
        ([1], set()),
        ({"result": 1}, set()),
        ({"task_ids": None}, set()),
        ({"task_ids": [1, "a"]}, {"a"}),
        ({"task_id": "a", "outcome": {"state": "SUCCESS"}}, {"a"}),
        ({"task_id": "a", "outcome": {"state": "SUCCESS", "result": 1, "error": None}}, {"a"}),
        ({"task_id": "a", "status": "SUCCESS", "result": 1}, {"a"}),
        ({"task_id": "a", "outcome": {"state": "STARTED", "result": None, "error": None}}, {"a"}),
        # It may have been retried since.
        ({"task_id": "a", "outcome": {"state": "FAILURE", "result": None, "error": "b"}}, {"a"}),
    ],
)
def test_a_reply_without_an_outcome_sends_readers_to_the_ledger(
    body: object, ids: set[str]
) -> None:
    assert decode(body) == dict.fromkeys(ids)


def test_an_external_task_gets_celerys_reply_in_a_batch_too(
    replies: list[tuple[str, Any]],
) -> None:
    reply(("a", "here", SUCCESS, '{"x": 1}'), ("b", "here", SUCCESS, "2"))
    assert [(queue, body["task_id"], body["result"]) for queue, body in replies] == [
        ("here", "a", {"x": 1}),
        ("here", "b", 2),
    ]


@pytest.mark.parametrize(("state", "kind"), [(FAILURE, "TaskError"), (REVOKED, "TaskRevokedError")])
def test_celery_clients_get_an_error_as_an_exception(
    replies: list[tuple[str, Any]], state: State, kind: str
) -> None:
    reply(("a", "here", state, "too small"))
    ((_, body),) = replies
    assert (body["status"], body["result"]["exc_type"]) == (state, kind)
    assert body["result"]["exc_message"] == ["too small"]


def test_a_deeply_nested_value_is_sent_unchanged(replies: list[tuple[str, Any]]) -> None:
    value = "[" * 240 + "]" * 240
    reply(("a", "here", SUCCESS, value))
    assert json.dumps(replies[0][1]["result"]) == value
