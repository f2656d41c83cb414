"""The states that were read of each task: none may be older than one that was read before.

Only a retry that a client asked for leads from an end back to an earlier state.
"""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from .changes import NEVER, Changes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .ending import Task
    from .history import Answer

ENDED = frozenset({"SUCCESS", "FAILURE", "REVOKED"})
# STARTED and RETRY alternate, once for each attempt.
RANKS = {"PENDING": 0, "STARTED": 1, "RETRY": 1, **dict.fromkeys(ENDED, 2)}


class Read(NamedTuple):
    """A state that was read."""

    sent: float
    received: float
    status: str
    body: str


class States:
    """The states that were read of every task."""

    def __init__(self, changes: Changes | None = None) -> None:
        self._changes = changes or Changes()
        self._reads: defaultdict[str, list[Read]] = defaultdict(list)

    def note(self, answer: Answer) -> None:
        """Record an answer that is a task's state. Raises ValueError for one of the wrong shape."""
        body = json.loads(answer.body)
        task_id = answer.path.removeprefix("/tasks/").partition("?")[0].partition("/")[0]
        if body.keys() != {"task_id", "status", "result"} or body["task_id"] != task_id:
            raise ValueError("another task's, or none")
        if body["status"] not in RANKS or (body["status"] not in ENDED and body["result"]):
            raise ValueError("no state, or a result before the end")
        self._reads[task_id].append(Read(answer.sent, answer.received, body["status"], answer.body))

    def ended_by(self, task_id: str) -> float | None:
        """Return when a task was first known to have ended; None if this was never read."""
        ends = (read.received for read in self._reads[task_id] if read.status in ENDED)
        return min(ends, default=None)

    def unfinished_at(self, task_id: str) -> float | None:
        """Return until when a task had certainly not ended; None if this was never read."""
        times = (read.sent for read in self._reads[task_id] if read.status not in ENDED)
        return max(times, default=None)

    def backwards(self, tasks: Mapping[str, Task]) -> Iterator[str]:
        """Yield each state that is older than one read before, and each end that changed."""
        for task_id, reads in self._reads.items():
            yield from self._older(task_id, reads)
            ends = sorted((read for read in reads if read.status in ENDED), key=_received)
            for one, other in pairwise(ends):
                pairs = [(one, other)]
                if other.sent < one.received:  # of requests at the same time any may be the older
                    pairs.append((other, one))
                explained = any(
                    self._explained(task_id, first, then.received) for first, then in pairs
                )
                if one.body != other.body and not explained:
                    yield f"{task_id} ended as {one.body}, then as {other.body}"
            task = tasks.get(task_id)
            if not ends or task is None or json.loads(ends[-1].body) == _state_of(task):
                continue
            if not self._explained(task_id, ends[-1], NEVER):
                yield f"{task_id} ended as {ends[-1].body}, and is {task} now"

    def _older(self, task_id: str, reads: list[Read]) -> Iterator[str]:
        """Yield each state that is older than one that was received before its request was sent."""
        received = iter(sorted(reads, key=_received))
        following = next(received, None)
        newest: Read | None = None
        for read in sorted(reads, key=lambda read: read.sent):
            while following is not None and following.received <= read.sent:
                if newest is None or _age(following) > _age(newest):
                    newest = following
                following = next(received, None)
            if newest is None or RANKS[read.status] >= RANKS[newest.status]:
                continue
            if read.status == "PENDING" or not self._explained(task_id, newest, read.received):
                yield f"{task_id} was {newest.status}, then {read.status} at {read.sent:.2f}"

    def _explained(self, task_id: str, end: Read, until: float) -> bool:
        """Return whether the task may have been retried between an end and a later time."""
        may_run_again = end.status in {"FAILURE", "REVOKED"}
        return may_run_again and self._changes.retried(task_id, end.sent, until)


def _received(read: Read) -> float:
    return read.received


def _age(read: Read) -> tuple[int, float]:
    return RANKS[read.status], read.sent


def _state_of(task: Task) -> object:
    """Return what GET /tasks/{id} must answer for a task that has ended."""
    value = json.loads(task.result or "null")
    result = value if task.state == "SUCCESS" else {"error": task.error}
    return {"task_id": task.id, "status": task.state, "result": result}
