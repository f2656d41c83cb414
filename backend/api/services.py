"""What the routes work with: a batcher for each kind of question, and the broker's side."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple, Protocol

from fastapi import Request
from uuid_utils.compat import uuid7

from backend.api.inspector import Inspector
from backend.api.replies import ReplyListener
from backend.api.submissions import Submissions
from backend.api.totals import Totals
from backend.batching import Batcher
from backend.broker.wire import is_task_id
from backend.db import messages, migrate, outbox, queries, repairs, workers, writable
from backend.db.records import NewTask
from backend.db.session import autocommit_connection, durability_faults, encoding_fault, trial
from backend.states import ACTIVE
from backend.tasks.registry import Task

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backend.db.messages import Message
    from backend.db.records import TaskRecord


class _Closable(Protocol):
    def close(self) -> None: ...


Listing = tuple[list[tuple[str, str]], int]
Page = tuple[list["Message"], int]


class Services:
    """The threads of an API process; made when it starts, closed when it stops."""

    def __init__(self) -> None:
        self.submissions = Submissions()
        self.states = Batcher("states", _states)
        self.new_messages = Batcher("new messages", _insert_messages)
        self.message_pages = Batcher("message pages", _message_pages)
        self.listings = Batcher("listings", self._list)
        self.totals = Totals()
        self.readiness = Batcher("readiness", self._readiness)
        self.replies = ReplyListener(self.state)
        self.inspector = Inspector()
        # Whether the relay in this process, if there is one, is blocked by the broker.
        self.relay_blocked: Callable[[], bool] = lambda: False

    async def state(self, task_id: str) -> TaskRecord | None:
        """Return what the ledger knows of a task, None for an id that was never issued."""
        return await self.states.submit(task_id) if is_task_id(task_id) else None

    async def list_tasks(self, limit: int) -> Listing:
        """Return the oldest tasks that have not ended, `limit` at most, and how many there are."""
        tasks, total = await self.listings.submit(limit)
        if total > queries.COUNTED:
            # A second old at most, and of another moment than the list.
            total = await self.totals.get()
        return tasks, total

    def new_task(self, task: Task, arguments: str) -> NewTask:
        """Return a task with a new id, whose outcome this process wants to hear of.

        The arguments are JSON text that fits the task's model.
        """
        return NewTask(
            str(uuid7()),
            task.name,
            arguments,
            task.max_attempts,
            self.replies.queue_name,
        )

    async def close(self) -> None:
        """Stop all threads at the same time; returns within 5 s."""
        parts: list[_Closable] = [
            *self.submissions.parts,
            self.states,
            self.new_messages,
            self.message_pages,
            self.listings,
            self.totals,
            self.readiness,
            self.replies,
            self.inspector,
        ]
        # A thread for each: asyncio's own may be fewer than the parts.
        pool = ThreadPoolExecutor(len(parts))
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(pool, part.close) for part in parts))
        pool.shutdown()

    def _list(self, limits: Sequence[int]) -> list[Listing]:
        """Join what the workers hold with what the ledger knows, once for all who ask."""
        most, many = max(limits), self.totals.many
        with autocommit_connection() as connection:
            answers = self.inspector.ask(workers.alive(connection))
            # While they answer.
            tasks, total = queries.unfinished(connection, most, many=many)
        held = answers()
        external = set(filter(is_task_id, held.keys() - tasks.keys()))
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

    def _readiness(self, asked: Sequence[None]) -> list[Readiness]:
        if not migrate.current():
            return [Readiness(migrated=False, workers=False, relayed=False)] * len(asked)
        refused = self.submissions.refused
        with trial() as connection:
            # Before the trial, whose row looks like a worker's.
            alive, late = workers.alive(connection), outbox.has_overdue(connection)
            writable.try_insert(connection, writable.LARGE if refused else writable.SMALL)
            faults = durability_faults(connection)
            if fault := encoding_fault(connection):
                faults.append(fault)
            if queues := workers.stray_queues(connection):
                faults.append(workers.STRAY_MESSAGES % ", ".join(queues))
            if repaired := repairs.total_if_recent(connection):
                faults.append(
                    f"waiting tasks without an outbox row: {repaired} repaired in total, the last"
                    " within an hour. Find out what else changes these tables"
                )
        if refused:
            self.submissions.refused = False
        condition = Readiness(migrated=True, workers=bool(alive), relayed=not late, faults=faults)
        return [condition] * len(asked)


def _states(ids: Sequence[str]) -> list[TaskRecord | None]:
    with autocommit_connection() as connection:
        return queries.states(connection, ids)


def _insert_messages(contents: Sequence[str]) -> list[Message]:
    with autocommit_connection() as connection:
        return messages.insert_many(connection, contents)


def _message_pages(asked: Sequence[tuple[int, int]]) -> list[Page]:
    with autocommit_connection() as connection:
        pages = [messages.page(connection, limit, before) for limit, before in asked]
        total = messages.count(connection)
    return [(page, total) for page in pages]


class Readiness(NamedTuple):
    """What PostgreSQL tells of the service."""

    migrated: bool
    workers: bool
    relayed: bool
    faults: Sequence[str] = ()


def services_of(request: Request) -> Services:
    """Return the services of the application that a request came to."""
    services: Services = request.app.state.services
    return services
