"""The requests to cancel and to retry tasks: which of them may explain a state."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from .answers import CANCEL, RETRY

if TYPE_CHECKING:
    from .history import Answer

NEVER = float("inf")


class Change(NamedTuple):
    """A request that has changed a task, or may have. `certain`: the answer says so.

    It took effect between `sent` and `received`. Without an answer, nobody knows when it did.
    """

    sent: float
    received: float
    certain: bool


class Changes:
    """The changes of every task that were asked for."""

    def __init__(self) -> None:
        self._of: defaultdict[tuple[str, str], list[Change]] = defaultdict(list)

    def note(self, answer: Answer) -> None:
        """Record a request to cancel or to retry tasks; `asked` has their ids."""
        certain = answer.status in {200, 202}
        if not certain and answer.status not in {None, 503}:
            return
        change = Change(answer.sent, answer.received if certain else NEVER, certain)
        changed = _changed(answer) if certain else {task_id for _, task_id in answer.asked}
        for kind, task_id in answer.asked:
            if task_id in changed:
                self._of[kind, task_id].append(change)

    def cancelled(self, task_id: str) -> bool:
        """Return whether somebody may have cancelled a task after its last retry."""
        retries = [change.sent for change in self._of[RETRY, task_id] if change.certain]
        since = max(retries, default=0.0)
        return any(change.received >= since for change in self._of[CANCEL, task_id])

    def retried(self, task_id: str, since: float = 0, until: float = NEVER) -> bool:
        """Return whether a task may have been retried between two times."""
        return any(
            change.received >= since and change.sent <= until for change in self._of[RETRY, task_id]
        )

    def retries(self, task_id: str) -> int:
        """Return how often a task was certainly retried."""
        return sum(change.certain for change in self._of[RETRY, task_id])


def _changed(answer: Answer) -> set[str]:
    """Return the ids of the tasks that have changed, or had been cancelled before."""
    body = json.loads(answer.body)
    if "tasks" not in body:
        return {body["task_id"]}
    return {row["task_id"] for row in body["tasks"] if row["changed"]}
