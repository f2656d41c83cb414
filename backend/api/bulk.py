"""Cancels or retries many tasks in one request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from backend.api.history import MOST_IDS
from backend.db import control, history, queries
from backend.db.session import transaction
from backend.states import FAILURE, PENDING, RETRY, REVOKED, STARTED, State

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from backend.api.history import TaskFilter
    from backend.db.control import Change
    from backend.db.history import Position
    from backend.db.records import TaskRecord
    from backend.db.session import Executor

# How many tasks one transaction changes.
CHUNK = 1000


@dataclass(frozen=True)
class Action:
    """What a bulk request does: `change` to tasks that are in `states`, which leads to `state`."""

    change: Callable[[Executor, Collection[str]], dict[str, Change]]
    states: frozenset[State]
    state: State


CANCEL = Action(control.cancel, frozenset({PENDING, STARTED, RETRY}), REVOKED)
RETRY_TASKS = Action(control.retry, frozenset({FAILURE, REVOKED}), RETRY)


class Outcome(NamedTuple):
    """What became of a task; `state` is None for an id that the ledger lacks."""

    task_id: str
    state: State | None
    changed: bool


class Result(NamedTuple):
    """What became of all tasks. `changed`: their records. `next`: where the next page begins."""

    tasks: list[Outcome]
    changed: list[TaskRecord]
    next: Position | None


def change(
    action: Action,
    wanted: TaskFilter | list[str],
    before: Position | None,
    *,
    dry_run: bool,
) -> Result:
    """Change tasks by their ids, or those that a filter finds, MOST_IDS at most.

    `dry_run`: only say what would be changed. A locked task is left unchanged. Raises
    StoreUnavailable; then tasks of earlier transactions have been changed.
    """
    following = None
    if isinstance(wanted, list):
        ids = list(dict.fromkeys(wanted))
    else:
        ids, following = _find(action, wanted, before)
    result = Result([], [], following)
    for first in range(0, len(ids), CHUNK):
        chunk = ids[first : first + CHUNK]
        with transaction() as connection:
            if dry_run:
                result.tasks.extend(_foresee(connection, action, chunk))
            else:
                _change(connection, action, chunk, result)
    return result


def _find(
    action: Action, wanted: TaskFilter, before: Position | None
) -> tuple[list[str], Position | None]:
    with transaction() as connection:
        found = history.page(connection, wanted.select(before, action.states), MOST_IDS)
    return [str(row["id"]) for row in found.tasks], found.next


def _foresee(connection: Executor, action: Action, ids: Sequence[str]) -> list[Outcome]:
    tasks = queries.states(connection, ids)
    return [
        Outcome(task_id, task and task.state, task is not None and task.state in action.states)
        for task_id, task in zip(ids, tasks, strict=True)
    ]


def _change(connection: Executor, action: Action, ids: Sequence[str], result: Result) -> None:
    changes = action.change(connection, ids)
    locked = [task_id for task_id, found in changes.items() if found.task is None]
    states = {
        task_id: task and task.state
        for task_id, task in zip(locked, queries.states(connection, locked), strict=True)
    }
    for task_id in ids:
        found = changes.get(task_id)
        if found is None or found.task is None:
            result.tasks.append(Outcome(task_id, states.get(task_id), changed=False))
            continue
        result.tasks.append(Outcome(task_id, found.task.state, found.changed))
        if found.changed:
            result.changed.append(found.task)
