"""A correct run of the chaos suite, for the tests of its checker, and answers to change it with."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from tests.chaos.ending import Ending, Message, Task
from tests.chaos.history import Answer, Happened, History

ONE, TWO, SLOW = "id-1", "id-2", "id-3"


def submitted(task_id: str, label: str, sent: float = 1, **more: Any) -> Answer:
    body = json.dumps({"task_id": task_id, "status": "PENDING", "message": "Task enqueued"})
    asked = [("insert_message", label)]
    answer = Answer(sent, sent + 0.1, 0, "POST", "/tasks/", 202, body, None, asked)
    return replace(answer, **more)


def read(task_id: str, state: str, sent: float, result: object = None, **more: Any) -> Answer:
    body = json.dumps({"task_id": task_id, "status": state, "result": result})
    path = f"/tasks/{task_id}?wait=1"
    return replace(Answer(sent, sent + 0.1, 1, "GET", path, 200, body), **more)


def listed(sent: float, *ids: str, total: int | None = None) -> Answer:
    rows = [{"task_id": task_id, "status": "ACTIVE"} for task_id in ids]
    body = json.dumps({"tasks": rows, "total": len(ids) if total is None else total})
    return Answer(sent, sent + 0.1, 0, "GET", "/tasks/", 200, body)


def done(task_id: str, label: str, **changes: Any) -> Task:
    result = json.dumps({"content": label})
    return Task(task_id, "insert_message", {"content": label}, "SUCCESS", 1, result, None)._replace(
        **changes
    )


def correct_run() -> tuple[History, Ending]:
    """Return a correct run: two messages, one with a key, and a failed task."""
    result = {"content": "a"}
    history = History(
        answers=[
            submitted(ONE, "a"),
            submitted(TWO, "b", 2, key="k"),
            submitted(TWO, "b", 3, key="k", replica=1),
            Answer(
                *(3, 3.5, 0, "POST", "/tasks/batch", 202),
                body='{"tasks":[{"task_id":"id-3","status":"PENDING"}],"total":1}',
                asked=[("slow", "")],
            ),
            read(ONE, "PENDING", 1.2),
            read(ONE, "STARTED", 1.4),
            listed(1.45, ONE),
            read(ONE, "RETRY", 1.6),
            read(ONE, "STARTED", 1.8),
            read(ONE, "SUCCESS", 2, result),
            read(ONE, "SUCCESS", 9, result),
        ],
        happened=[Happened(4, 5, "restart_store", "postgres")],
    )
    ending = Ending(
        tasks=[
            done(ONE, "a"),
            done(TWO, "b"),
            Task(SLOW, "slow", {"duration": 0}, "SUCCESS", 2, '{"message": "done"}', None),
        ],
        messages=[Message(1, ONE, "a"), Message(2, TWO, "b")],
        outbox=[],
        open_transactions=[],
        listed=['{"tasks":[],"total":0}'] * 2,
        ready=['{"status":"ready","degraded":[]}'] * 2,
        message_totals=[2, 2],
        tracebacks=[],
    )
    return history, ending
