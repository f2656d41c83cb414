"""What goes into the database's statements about tasks, and what comes out of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from backend.states import ENDED

if TYPE_CHECKING:
    from datetime import datetime

    from backend.states import State


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """What the ledger knows of a task; `result` is JSON text, None unless SUCCESS."""

    id: str
    state: str
    result: str | None
    error: str | None
    progress: str | None

    @property
    def ended(self) -> bool:
        """Return whether the task has come to its end."""
        return self.state in ENDED


class NewTask(NamedTuple):
    """A task to be accepted; `args` is JSON text."""

    id: str
    name: str
    args: str
    max_attempts: int
    reply_to: str | None


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """An attempt to be published; `args` is JSON text.

    Those with the same `bundle` share a message; one without has its own.
    """

    task_id: str
    attempt: int
    name: str
    args: str
    reply_to: str | None
    bundle: int | None = None


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


class Outcome(NamedTuple):
    """How a task ends: SUCCESS with its value as JSON text, FAILURE or REVOKED with an error."""

    id: str
    attempt: int
    state: State
    result: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Locked:
    """What a locked row says of a task."""

    id: str
    attempt: int
    max_attempts: int
    state: str
    worker: str | None


class Started(NamedTuple):
    """A started attempt, and whether its worker's lease holds it.

    `renewed_at` is when the lease was last renewed, None where the worker has none.
    """

    task_id: str
    attempt: int
    worker: str
    renewed_at: datetime | None
    held: bool
