"""Cancels or retries many tasks in one request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from backend.api.history import MAX_IDS
from backend.broker.ended import reply_soon
from backend.db import control, history, queries
from backend.db.control import CANCELLED
from backend.db.session import autocommit_connection, transaction
from backend.states import RETRIABLE, REVOKED, UNFINISHED, State

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from backend.api.history import TaskFilter
    from backend.db.control import Change
    from backend.db.position import Position

# How many tasks one transaction changes.
CHUNK = 1000


@dataclass(frozen=True)
class Action:
    """What a client asks for: `run` changes tasks that are in `states`, in one transaction."""

    run: Callable[[Collection[str]], dict[str, Change]]
    states: Collection[State]


def _cancel(ids: Collection[str]) -> dict[str, Change]:
    with transaction() as connection:
        changes = control.cancel(connection, ids)
    cancelled = [each.task for each in changes.values() if each.changed and each.task]
    if cancelled:
        reply_soon(cancelled, REVOKED, CANCELLED)
    return changes


def _retry(ids: Collection[str]) -> dict[str, Change]:
    with transaction() as connection:
        return control.retry(connection, ids)


CANCEL = Action(_cancel, UNFINISHED)
RETRY_TASKS = Action(_retry, RETRIABLE)


class Changed(NamedTuple):
    """The result for a task; `status` is None for an id that the ledger lacks."""

    task_id: str
    status: State | None
    changed: bool


class Result(NamedTuple):
    """The results for all tasks. `next`: where the next page begins."""

    tasks: list[Changed]
    next: Position | None


def change_many(
    action: Action,
    wanted: TaskFilter | list[str],
    before: Position | None,
    *,
    dry_run: bool,
) -> Result:
    """Change tasks by their ids, or those that a filter finds, MAX_IDS at most.

    `dry_run`: only say what would be changed. A locked task is left unchanged. Raises
    StoreUnavailable; then tasks of earlier transactions have been changed.
    """
    following = None
    if isinstance(wanted, list):
        ids = list(dict.fromkeys(wanted))
    else:
        ids, following = _find(action, wanted, before)
    tasks: list[Changed] = []
    for first in range(0, len(ids), CHUNK):
        tasks += (_foresee if dry_run else _change)(action, ids[first : first + CHUNK])
    return Result(tasks, following)


def _find(
    action: Action, wanted: TaskFilter, before: Position | None
) -> tuple[list[str], Position | None]:
    with autocommit_connection() as connection:
        found = history.page(connection, wanted.select(before, action.states), MAX_IDS)
    return [str(row["id"]) for row in found.tasks], found.next


def _foresee(action: Action, ids: Sequence[str]) -> list[Changed]:
    with autocommit_connection() as connection:
        tasks = queries.states(connection, ids)
    return [
        Changed(task_id, task and task.state, task is not None and task.state in action.states)
        for task_id, task in zip(ids, tasks, strict=True)
    ]


def _change(action: Action, ids: Sequence[str]) -> list[Changed]:
    changes = action.run(ids)
    return [
        Changed(task_id, found and found.state, found is not None and found.changed)
        for task_id in ids
        for found in (changes.get(task_id),)
    ]
