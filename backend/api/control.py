"""Cancels and retries tasks for clients."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from backend.api.bulk import CANCEL, RETRY_TASKS, change_many
from backend.api.openapi import NO_SUCH_TASK
from backend.batcher import Batcher
from backend.db.records import LAST_ATTEMPT
from backend.errors import Conflict, NotFound
from backend.ids import is_task_id
from backend.states import REVOKED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backend.api.bulk import Action, Result
    from backend.api.history import TaskFilter
    from backend.db.control import Change
    from backend.db.position import Position

# How long to wait for tasks whose rows are locked, and how often to look.
LOCKED_SECONDS = 1.0
LOOK_SECONDS = 0.05
# How long a request for many tasks may take.
BULK_SECONDS = 60.0

NOT_KNOWN = (
    f"{NO_SUCH_TASK} A task that Flower or `celery call` has sent is known only after a worker has"
    " started it. Until then only Flower can revoke it."
)
_LOCKED = (
    "The task is running inside one commit at this moment, or another request is changing it. It"
    " cannot be {done} now: try again in a second."
)


class Control:
    """Handles concurrent requests of the same kind in one transaction."""

    def __init__(self) -> None:
        """Start a thread for each kind of request."""
        self._cancels = Batcher("cancels", partial(_change_each, CANCEL))
        self._retries = Batcher("retries", partial(_change_each, RETRY_TASKS))
        self._bulk: Batcher[Callable[[], Result], Result] = Batcher(
            "bulk changes", _call, limit=1, timeout=BULK_SECONDS
        )

    async def cancel(self, task_id: str) -> None:
        """Revoke a task that has not ended. A task that was revoked before stays as it is.

        Raises NotFound, Conflict if the task has ended otherwise, StoreUnavailable, Overloaded.
        """
        _, state, changed = await _ask(self._cancels, task_id, "cancelled")
        if not changed and state != REVOKED:
            raise Conflict(f"The task has ended with {state}, so it cannot be cancelled.")

    async def retry(self, task_id: str) -> None:
        """Give a task that has failed or was revoked another attempt.

        Raises NotFound, Conflict if the task is in another state, StoreUnavailable, Overloaded.
        """
        task, state, changed = await _ask(self._retries, task_id, "retried")
        if not changed and task and task.attempt == LAST_ATTEMPT:
            raise Conflict(f"The task has had {LAST_ATTEMPT} attempts, and can have no more.")
        if not changed:
            raise Conflict(
                f"The task is {state}. Only one that has ended with FAILURE or REVOKED can be"
                " retried."
            )

    async def change_many(
        self,
        action: Action,
        wanted: TaskFilter | list[str],
        before: Position | None,
        *,
        dry_run: bool,
    ) -> Result:
        """Change many tasks, as bulk.change_many does. Raises StoreUnavailable, Overloaded."""
        return await self._bulk.submit(
            partial(change_many, action, wanted, before, dry_run=dry_run)
        )

    @property
    def parts(self) -> Sequence[Batcher[Any, Any]]:
        """Return the parts that have a thread and must be closed."""
        return self._cancels, self._retries, self._bulk


async def _ask(batcher: Batcher[str, Change | None], task_id: str, done: str) -> Change:
    """Ask for a change of a task; return what it has led to.

    Waits for a locked task. Raises NotFound, and Conflict if it stays locked.
    """
    deadline = time.monotonic() + LOCKED_SECONDS
    while True:
        change = await batcher.submit(task_id) if is_task_id(task_id) else None
        if change is None:
            raise NotFound(NOT_KNOWN)
        if change.task is not None:
            return change
        if time.monotonic() > deadline:
            raise Conflict(_LOCKED.format(done=done))
        await asyncio.sleep(LOOK_SECONDS)


def _call(requests: Sequence[Callable[[], Result]]) -> list[Result]:
    return [request() for request in requests]


def _change_each(action: Action, ids: Sequence[str]) -> list[Change | None]:
    """Change tasks; return the result of each request, None for an id that the ledger lacks.

    Of several requests for one task the first has changed it.
    """
    found = action.run(set(ids))
    changes = []
    for task_id in ids:
        change = found.get(task_id)
        changes.append(change)
        if change:
            found[task_id] = change._replace(changed=False)
    return changes
