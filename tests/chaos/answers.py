"""What an answer says: the kind of its request, which statuses are right, and its ids."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .history import Answer

# The last part of the path of a request that changes tasks.
CANCEL, RETRY = "cancel", "retry"
# Such requests for several tasks, whose ids are in the body.
BULK = {f"/tasks/{CANCEL}", f"/tasks/{RETRY}"}


def action(answer: Answer) -> str | None:
    """Return CANCEL or RETRY for the answer to such a request, None for any other one."""
    last = answer.path.rpartition("/")[2]
    return last if answer.method == "POST" and last in {CANCEL, RETRY} else None


def expected(answer: Answer) -> set[int]:
    """Return the statuses that are right while everything works."""
    if answer.method == "GET" or answer.path in BULK:
        return {200}
    kind = action(answer)
    if kind is None:
        return {201 if answer.path == "/messages/" else 202}
    return {200 if kind == CANCEL else 202, 409}


def accepted_ids(answer: Answer) -> list[str | None]:
    """Return the id of each task in the answer to a submission; None if it was not accepted."""
    values = [json.loads(line) for line in answer.body.splitlines()]
    lines: Iterator[dict[str, str]] = iter(values)
    if len(values) == 1 and "tasks" in values[0]:
        lines = iter(values[0]["tasks"])
    return [line.get("task_id") if line.get("status") == "PENDING" else None for line in lines]


def states_in(answer: Answer) -> Iterator[Answer]:
    """Yield the states in the answer to a cancel, each as the answer of GET /tasks/{id}."""
    if answer.status != 200 or action(answer) != CANCEL:
        return
    if answer.path not in BULK:
        yield answer
        return
    for row in json.loads(answer.body)["tasks"]:
        if row["status"] == "REVOKED":
            state = {**row, "result": {"error": "Cancelled"}}
            del state["changed"]
            yield replace(answer, path=f"/tasks/{row['task_id']}", body=_compact(state))


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
