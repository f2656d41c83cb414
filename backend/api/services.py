"""The objects that routes use: a batcher for each kind of request, connections to the broker."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from fastapi import Request

from backend.api import readiness
from backend.api.control import Control
from backend.api.listing import Listing
from backend.api.readiness import Readiness
from backend.api.replies import ReplyListener
from backend.api.submissions import Submissions
from backend.batcher import Batcher
from backend.db import messages, queries
from backend.db.records import TaskRecord
from backend.db.session import autocommit_connection
from backend.ids import is_task_id, new_task_id
from backend.task import Task

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backend.db.messages import Message
    from backend.db.session import Executor
    from backend.options import Options


class _Closable(Protocol):
    def close(self) -> None: ...


T = TypeVar("T")


class Services:
    """The threads of an API process; made when it starts, closed when it stops."""

    def __init__(self) -> None:
        self.submissions = Submissions()
        self.states = Batcher("states", _states)
        self.new_messages = Batcher("new messages", _insert_messages)
        # Alone in its batch: it may read 20,000 tasks.
        self.history: Batcher[Callable[[Executor], Any], Any] = Batcher("history", _query, limit=1)
        self.deletions: Batcher[int, bool] = Batcher("deletions", _delete_messages)
        self._queries: Batcher[Callable[[Executor], Any], Any] = Batcher("queries", _query)
        self.control = Control()
        self.listing = Listing()
        self.readiness = Batcher("readiness", self._check)
        self.replies = ReplyListener(self.state)
        # The relay and the reconciler in this process, if it has them: closed together with these.
        self.beside: Sequence[_Closable] = ()
        # Whether the relay in this process, if there is one, is blocked by the broker.
        self.relay_blocked: Callable[[], bool] = lambda: False

    async def state(self, task_id: str) -> TaskRecord | None:
        """Return what the ledger knows of a task, None for an id that it lacks."""
        return await self.states.submit(task_id) if is_task_id(task_id) else None

    async def query(self, question: Callable[[Executor], T]) -> T:
        """Return what a function of `db` returns; for short statements that are not frequent.

        Raises StoreUnavailable and Overloaded as Batcher does.
        """
        found: T = await self._queries.submit(question)
        return found

    def new_task(self, task: Task, arguments: str, options: Options | None = None) -> TaskRecord:
        """Return a task with a new id; the reply about its outcome goes to this process.

        The arguments are JSON text that fits the task's model.
        """
        return task.record(new_task_id(), arguments, self.replies.queue_name, options)

    @property
    def parts(self) -> Sequence[_Closable]:
        """What has a thread, to be closed."""
        return (
            *self.submissions.parts,
            self.states,
            self.new_messages,
            self._queries,
            self.deletions,
            self.history,
            *self.control.parts,
            *self.listing.parts,
            self.readiness,
            self.replies,
            *self.beside,
        )

    async def close(self) -> None:
        """Stop all threads at the same time; returns within 5 s."""
        parts = self.parts
        # A thread for each: asyncio's own may be fewer than the parts.
        pool = ThreadPoolExecutor(len(parts))
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(pool, part.close) for part in parts))
        pool.shutdown()

    def _check(self, asked: Sequence[None]) -> list[Readiness]:
        refused = self.submissions.refused
        found = readiness.check(large=refused)
        if refused and found.migrated:
            self.submissions.refused = False
        return [found] * len(asked)


def _states(ids: Sequence[str]) -> list[TaskRecord | None]:
    with autocommit_connection() as connection:
        return queries.states(connection, ids)


def _insert_messages(contents: Sequence[str]) -> list[Message]:
    with autocommit_connection() as connection:
        return messages.insert_many(connection, contents)


def _query(questions: Sequence[Callable[[Executor], Any]]) -> list[Any]:
    with autocommit_connection() as connection:
        return [question(connection) for question in questions]


def _delete_messages(ids: Sequence[int]) -> list[bool]:
    with autocommit_connection() as connection:
        return messages.delete_many(connection, ids)


def services_of(request: Request) -> Services:
    """Return the services of the application that a request came to."""
    services: Services = request.app.state.services
    return services
