"""Cancels and retries tasks for clients, and tells those who wait for a cancelled task."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from backend.api import bulk
from backend.batcher import Batcher
from backend.broker.ended import reply_ended
from backend.db import control
from backend.db.control import CANCELLED
from backend.db.records import LAST_ATTEMPT
from backend.db.session import transaction
from backend.errors import Conflict, NotFound
from backend.ids import is_task_id
from backend.loop import start_thread
from backend.states import REVOKED

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from backend.api.bulk import Action, Result
    from backend.api.history import TaskFilter
    from backend.db.control import Change
    from backend.db.history import Position
    from backend.db.records import TaskRecord
    from backend.db.session import Executor

    ChangeTasks = Callable[[Executor, Collection[str]], dict[str, Change]]

# How long to wait for tasks whose rows are locked, and how often to look.
LOCKED_SECONDS = 1.0
LOOK_SECONDS = 0.05

NOT_FOUND = (
    "There is no task with this id. A task that another program has sent to the broker is known"
    " when a worker has started it; before, only Flower can revoke it."
)
_LOCKED = (
    "The task is running inside one commit at this moment, so it cannot be {done}. Try again in a"
    " second."
)


class Control:
    """Handles concurrent requests of the same kind in one transaction."""

    def __init__(self) -> None:
        """Start a thread for each kind of request."""
        self._cancels = Batcher("cancels", _cancel)
        self._retries = Batcher("retries", partial(_change, control.retry))
        self._bulk: Batcher[Callable[[], Result], Result] = Batcher("bulk changes", _call, limit=1)

    async def cancel(self, task_id: str) -> None:
        """Revoke a task that has not ended. A task that was revoked before stays as it is.

        Raises NotFound, Conflict if the task has ended otherwise, StoreUnavailable, Overloaded.
        """
        task, changed = await _ask(self._cancels, task_id, "cancelled")
        if not changed and task.state != REVOKED:
            raise Conflict(f"The task has ended with {task.state}, so it cannot be cancelled.")

    async def retry(self, task_id: str) -> None:
        """Give a task that has failed or was revoked another attempt.

        Raises NotFound, Conflict if the task is in another state, StoreUnavailable, Overloaded.
        """
        task, changed = await _ask(self._retries, task_id, "retried")
        if not changed and task.attempt == LAST_ATTEMPT:
            raise Conflict(f"The task has had {LAST_ATTEMPT} attempts, and can have no more.")
        if not changed:
            raise Conflict(
                f"The task is {task.state}. Only one that has ended with FAILURE or REVOKED can be"
                " retried."
            )

    async def change(
        self,
        action: Action,
        wanted: TaskFilter | list[str],
        before: Position | None,
        *,
        dry_run: bool,
    ) -> Result:
        """Change many tasks, as bulk.change does. Raises StoreUnavailable, Overloaded."""
        return await self._bulk.submit(
            partial(bulk.change, action, wanted, before, dry_run=dry_run)
        )

    @property
    def parts(self) -> Sequence[Batcher[Any, Any]]:
        """Return the parts that have a thread and must be closed."""
        return self._cancels, self._retries, self._bulk


async def _ask(
    batcher: Batcher[str, Change | None], task_id: str, done: str
) -> tuple[TaskRecord, bool]:
    """Ask for a change; return the task and whether it was changed.

    Waits for a locked task. Raises NotFound, and Conflict if it stays locked.
    """
    deadline = time.monotonic() + LOCKED_SECONDS
    while True:
        change = await batcher.submit(task_id) if is_task_id(task_id) else None
        if change is None:
            raise NotFound(NOT_FOUND)
        if change.task is not None:
            return change.task, change.changed
        if time.monotonic() > deadline:
            raise Conflict(_LOCKED.format(done=done))
        await asyncio.sleep(LOOK_SECONDS)


def _cancel(ids: Sequence[str]) -> list[Change | None]:
    changes = _change(control.cancel, ids)
    _reply([change.task for change in changes if change and change.task and change.changed])
    return changes


def _reply(cancelled: Sequence[TaskRecord]) -> None:
    if cancelled:
        # In a thread: the request must not wait for the broker.
        send = partial(reply_ended, cancelled, REVOKED, CANCELLED)
        start_thread("reply", "sends replies", send)


def _call(requests: Sequence[Callable[[], Result]]) -> list[Result]:
    """Handle bulk requests, and reply about the tasks that they have cancelled."""
    results = [request() for request in requests]
    for result in results:
        _reply([task for task in result.changed if task.state == REVOKED])
    return results


def _change(action: ChangeTasks, ids: Sequence[str]) -> list[Change | None]:
    """Call an action of db/control.py; return what became of each request.

    None for an id that the ledger lacks. Of several requests for one task the first has changed it.
    """
    with transaction() as connection:
        found = action(connection, set(ids))
    changes = []
    for task_id in ids:
        change = found.get(task_id)
        changes.append(change)
        if change:
            found[task_id] = change._replace(changed=False)
    return changes
