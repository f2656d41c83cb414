"""The inputs and results of the statements about tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from backend.options import PRIORITY
from backend.states import ENDED, PENDING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from backend.options import Options
    from backend.states import State

# The queues' names, without QUEUE_PREFIX.
TASKS = "tasks"
SHORT_TASKS = "short_tasks"
# The largest number of an attempt (smallint).
LAST_ATTEMPT = 2**15 - 1


class TaskRecord(NamedTuple):
    """A row of `tasks`: what a statement writes or has read of it.

    Each function says which fields those are; the others have their defaults. `args` and `result`
    are JSON text, `result` is None unless SUCCESS. db/models.py describes each column.
    """

    id: str
    name: str = ""
    args: str = ""
    max_attempts: int = 1
    reply_to: str | None = None
    options: Options | None = None
    attempt: int = 1
    state: State = PENDING
    worker: str | None = None
    result: str | None = None
    error: str | None = None
    progress: str | None = None

    @property
    def ended(self) -> bool:
        """Return whether the task has ended."""
        return self.state in ENDED


def outcome(
    task_id: str,
    attempt: int,
    state: State,
    *,
    result: str | None = None,
    error: str | None = None,
) -> TaskRecord:
    """Return what `ledger.finish` writes: SUCCESS with a result, or another end with an error."""
    return TaskRecord(task_id, attempt=attempt, state=state, result=result, error=error)


class OutboxEntry(NamedTuple):
    """An attempt to be published; `args` is JSON text.

    publishes: how often it was published before. limit_key: by which limit it was made due.
    options: those of its submission that the ledger stores as JSON; None: it has none.
    """

    task_id: str
    attempt: int
    name: str
    args: str
    reply_to: str | None
    publishes: int = 0
    limit_key: str | None = None
    options: Mapping[str, Any] | None = None

    @property
    def priority(self) -> int:
        """Return its priority."""
        return self.options.get("priority", PRIORITY) if self.options else PRIORITY

    @property
    def time_limit(self) -> float | None:
        """Return its own time limit in seconds; None: as the task declares."""
        return self.options.get("time_limit") if self.options else None

    @property
    def max_attempts(self) -> int | None:
        """Return its own number of attempts; None: as the task declares."""
        return self.options.get("max_attempts") if self.options else None


@dataclass(frozen=True, slots=True)
class Claim:
    """What a transaction has claimed.

    ids: the tasks whose attempts it may run; the others do not wait for theirs.
    began: now() of the transaction, which identifies it. transaction_id: PostgreSQL's own id of it.
    leased: whether the worker has a lease.
    """

    ids: frozenset[str]
    began: datetime
    transaction_id: str
    leased: bool


class Started(NamedTuple):
    """A started attempt, and whether its worker's lease holds it.

    `renewed_at` is when the lease was last renewed, None where the worker has none.
    """

    task_id: str
    attempt: int
    worker: str
    renewed_at: datetime | None
    held: bool
