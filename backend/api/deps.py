"""What the routes work with: a batcher for each kind of question, and the broker's side."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Annotated, NamedTuple, Protocol
from uuid import UUID

from fastapi import Depends, Request
from pydantic import BaseModel
from uuid_utils.compat import uuid7

from backend.api.inbox import Inbox
from backend.api.inspector import Inspector
from backend.api.submissions import Submissions
from backend.batching import Batcher
from backend.db import lookups, messages, migrate, outbox, workers
from backend.db.ledger import Submission
from backend.db.session import single
from backend.tasks.registry import Task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.db.lookups import State
    from backend.db.messages import Message


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
        self.readiness = Batcher("readiness", _readiness)
        self.inbox = Inbox(self.state)
        self.inspector = Inspector()

    async def state(self, task_id: str) -> State | None:
        """Return what the ledger knows of a task, None for an id that was never issued."""
        return await self.states.submit(task_id) if is_task_id(task_id) else None

    def new_task(self, task: Task, arguments: BaseModel) -> Submission:
        """Return a task with a new id, whose outcome this process wants to hear of."""
        return Submission(
            str(uuid7()),
            task.name,
            arguments.model_dump_json(),
            task.max_attempts,
            self.inbox.queue_name,
        )

    async def close(self) -> None:
        """Stop all threads at the same time; returns within 5 s."""
        parts: list[_Closable] = [
            *self.submissions.parts,
            self.states,
            self.new_messages,
            self.message_pages,
            self.listings,
            self.readiness,
            self.inbox,
            self.inspector,
        ]
        # A thread for each: asyncio's own may be fewer than the parts.
        pool = ThreadPoolExecutor(len(parts))
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(pool, part.close) for part in parts))
        pool.shutdown()

    def _list(self, limits: Sequence[int]) -> list[Listing]:
        """Join what the workers hold with what the ledger knows, once for all who ask."""
        most = max(limits)
        with single() as connection:
            answers = self.inspector.ask(workers.alive(connection))
            # While they answer.
            rows, total = lookups.unfinished(connection, most)
        held = answers()
        listed = {task_id for task_id, _ in rows}
        others = [task_id for task_id in held if task_id not in listed and is_task_id(task_id)]
        known: set[str] = set()
        if others:
            with single() as connection:
                known = lookups.known(connection, others)
        # Held by a worker and unknown to the ledger: it came by another door and has not started.
        strangers = [(task_id, held[task_id]) for task_id in others if task_id not in known]
        tasks = [
            (task_id, "ACTIVE" if held.get(task_id) == "ACTIVE" else status)
            for task_id, status in rows
        ] + strangers
        return [(tasks[:limit], total + len(strangers)) for limit in limits]


def is_task_id(text: str) -> bool:
    """Tell whether a text could be the id of a task: a UUID as we write it."""
    try:
        return len(text) == 36 and str(UUID(text)) == text  # noqa: PLR2004 - a UUID's length
    except ValueError:
        return False


def _states(ids: Sequence[str]) -> list[State | None]:
    with single() as connection:
        return lookups.states(connection, ids)


def _insert_messages(contents: Sequence[str]) -> list[Message]:
    with single() as connection:
        return messages.insert_many(connection, contents)


def _message_pages(asked: Sequence[tuple[int, int]]) -> list[Page]:
    with single() as connection:
        pages = [messages.page(connection, limit, before) for limit, before in asked]
        total = messages.count(connection)
    return [(page, total) for page in pages]


class Condition(NamedTuple):
    """What PostgreSQL tells of the service."""

    migrated: bool
    workers: bool
    relayed: bool


def _readiness(asked: Sequence[None]) -> list[Condition]:
    condition = Condition(migrated=False, workers=False, relayed=False)
    if migrate.current():
        with single() as connection:
            alive, late = workers.alive(connection), outbox.late(connection)
        condition = Condition(migrated=True, workers=bool(alive), relayed=not late)
    return [condition] * len(asked)


def services_of(request: Request) -> Services:
    """Return the services of the application that a request came to."""
    services: Services = request.app.state.services
    return services


async def _services(request: Request) -> Services:
    return services_of(request)


# For routes that are not asked thousands of times a second: it costs a twelfth of their time.
ServicesDep = Annotated[Services, Depends(_services)]
