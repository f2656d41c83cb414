"""Bodies: which content is accepted, and how answers are written."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from backend.api.problems import InvalidProblem, Problem
from backend.api.routes.task_models import TaskState
from backend.tasks.insert_message import MessageIn, MessageOut


@pytest.mark.parametrize("content", ["a", " a ", "\n.", "x" * 10_000, "\U0001f389" * 10_000])
def test_content_is_kept_unchanged(content: str) -> None:
    assert MessageIn(content=content).content == content


@pytest.mark.parametrize(
    "content", ["", " ", "\t\n", "\u3000", "x" * 10_001, "a\x00", "\ud800", 7, None, True, []]
)
def test_content_that_cannot_be_stored_or_read_is_refused(content: object) -> None:
    with pytest.raises(ValidationError):
        MessageIn.model_validate({"content": content})


def test_unknown_fields_of_a_message_are_ignored() -> None:
    assert MessageIn.model_validate({"content": "a", "id": 7}).model_dump() == {"content": "a"}


@pytest.mark.parametrize("microsecond", [0, 1, 123_456])
def test_times_are_in_utc_with_a_z(microsecond: int) -> None:
    moment = datetime(2025, 10, 16, 14, 30, 0, microsecond, tzinfo=UTC)
    written = json.loads(MessageOut(id=1, content="a", created_at=moment).model_dump_json())
    assert {"id", "content", "created_at"} == written.keys()
    assert written["created_at"].startswith("2025-10-16T14:30:00")
    assert written["created_at"].endswith("Z")
    assert datetime.fromisoformat(written["created_at"]) == moment


@pytest.mark.parametrize("state", ["PENDING", "STARTED", "RETRY", "SUCCESS", "FAILURE", "REVOKED"])
def test_a_task_is_in_one_of_six_states(state: str) -> None:
    result: object = None
    if state == "SUCCESS":
        result = {"message": "Task completed after 10 seconds"}
    elif state in {"FAILURE", "REVOKED"}:
        result = {"error": "Database connection failed"}
    told = TaskState.model_validate({"task_id": "x", "status": state, "result": result})
    assert list(told.model_dump()) == ["task_id", "status", "result"]
    with pytest.raises(ValidationError):
        TaskState.model_validate({"task_id": "x", "status": state.lower(), "result": result})


def test_problems_have_the_members_of_rfc_9457() -> None:
    assert list(Problem.model_fields) == ["type", "title", "status", "detail"]
    assert [*Problem.model_fields, "errors"] == list(InvalidProblem.model_fields)
