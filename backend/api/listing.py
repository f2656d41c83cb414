"""The list of unfinished tasks: what the workers hold, joined with what the ledger knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.api.inspector import Inspector
from backend.api.totals import Totals
from backend.batcher import Batcher
from backend.db import leases, queries
from backend.db.session import autocommit_connection
from backend.ids import is_task_id
from backend.states import ACTIVE

if TYPE_CHECKING:
    from collections.abc import Sequence

# Each task's id and status, and how many tasks there are.
Listed = tuple[list[tuple[str, str]], int]


class Listing:
    """Lists unfinished tasks. Requests that arrive during one query share the next one."""

    def __init__(self) -> None:
        self._totals = Totals()
        self._inspector = Inspector()
        self._lists = Batcher("listings", self._list)

    async def get(self, limit: int) -> Listed:
        """Return the oldest unfinished tasks, `limit` at most, and how many there are.

        Raises StoreUnavailable and Overloaded as Batcher does.
        """
        tasks, total = await self._lists.submit(limit)
        if total > queries.COUNTED:
            # Up to a second old, so it may not match the list.
            total = await self._totals.get()
        return tasks, total

    @property
    def parts(self) -> tuple[Totals, Inspector, Batcher[int, Listed]]:
        """Return the parts that have a thread and must be closed."""
        return self._totals, self._inspector, self._lists

    def _list(self, limits: Sequence[int]) -> list[Listed]:
        most, many = max(limits), self._totals.many
        with autocommit_connection() as connection:
            answers = self._inspector.ask(leases.alive(connection))
            # Read the ledger while the workers answer.
            tasks, total = queries.unfinished(connection, most, many=many)
        held = answers()
        external = {task_id for task_id in held if task_id not in tasks and is_task_id(task_id)}
        if external:
            with autocommit_connection() as connection:
                external -= queries.known(connection, list(external))
                # Again: a worker may have submitted one of them since the first look.
                tasks, total = queries.unfinished(connection, most, many=many)
        for task_id, status in held.items():
            if task_id in tasks:
                if status == ACTIVE:
                    tasks[task_id] = status
            elif task_id in external:
                # Unknown to the ledger: another program sent it, and it has not started.
                tasks[task_id] = status
                total += 1
        listed = list(tasks.items())
        return [(listed[:limit], total) for limit in limits]
