"""Tasks in the ledger for tests: functions to create, claim, end and read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

import sqlalchemy as sa

from backend import states
from backend.broker.pack import pack
from backend.db import ledger, locked, lost_messages, outbox, records

if TYPE_CHECKING:
    from backend.options import Options


def submit(
    database: sa.Engine,
    count: int = 1,
    max_attempts: int = 3,
    args: str = '{"n": 1}',
    name: str = "slow",
    options: Options | None = None,
) -> list[str]:
    """Submit tasks; return their ids, in order. Those named "insert_message" are short."""
    ids = sorted(str(uuid4()) for _ in range(count))
    with database.begin() as connection:
        ledger.submit(
            connection,
            [
                records.TaskRecord(one, name, args, max_attempts, "replies", options=options)
                for one in ids
            ],
        )
    return ids


def put(database: sa.Engine, state: str, attempt: int = 1, max_attempts: int = 3) -> str:
    """Insert a task in a state, with its outbox row if it waits; return its id."""
    (task_id,) = submit(database, max_attempts=max_attempts)
    with database.begin() as connection:
        connection.execute(
            sa.text("UPDATE tasks SET state = :s, attempt = :a, worker = 'w', started_at = now()"),
            {"s": state, "a": attempt},
        )
        if state in {"PENDING", "RETRY"}:
            connection.execute(sa.text("UPDATE outbox SET attempt = :a"), {"a": attempt})
        else:
            connection.execute(sa.text("DELETE FROM outbox"))
    return task_id


def publish(connection: sa.Connection, limit: int) -> list[records.OutboxEntry]:
    """Take due rows and mark them as published, as a relay does; return them."""
    taken = outbox.take(connection, limit)
    messages = ((message.queue, message.task_ids) for message in pack(taken, None))
    outbox.mark_published(connection, messages)
    return taken


def republish(connection: sa.Connection, queue: str, missing: int) -> int:
    """Make the oldest messages of a queue due again, if they wait long; return how many tasks."""
    return lost_messages.republish(
        connection, queue, lost_messages.oldest_published(connection, queue, missing)
    )


def lock_waiters(database: sa.Engine) -> int:
    """Return how many sessions of this database wait for a lock."""
    waiting = sa.text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with database.connect() as connection:
        return int(connection.execute(waiting).scalar_one())


def claim(connection: sa.Connection, task_id: str, attempt: int, worker: str = "w") -> bool:
    """Start an attempt; return whether the claim succeeded."""
    return task_id in ledger.claim(connection, {task_id: attempt}, worker).ids


def succeed(connection: sa.Connection, task_id: str, attempt: int, result: str = "{}") -> bool:
    """End a started attempt of the worker "w" with success; return whether it was current."""
    end = records.TaskRecord(task_id, attempt=attempt, state=states.SUCCESS, result=result)
    return bool(ledger.finish(connection, [end], "w", waiting=False))


def reschedule(
    connection: sa.Connection, task_id: str, attempt: int, *, waiting: bool = False, delay: int = 0
) -> bool:
    """Give a task of the worker "w" its next attempt at no cost; return whether it was current."""
    again = ledger.reschedule(
        connection,
        {task_id: attempt},
        "w",
        waiting=waiting,
        free=True,
        error="away",
        delay=delay,
    )
    return bool(again)


def hand_back(connection: sa.Connection, worker: str) -> int:
    """Hand tasks back as a stopping worker does; return how many."""
    started = locked.lock_started_by(connection, worker)
    return len(ledger.reschedule(connection, started, worker, waiting=False, free=True))


def task(database: sa.Engine, task_id: str) -> dict[str, Any]:
    with database.begin() as connection:
        found = connection.execute(sa.text("SELECT * FROM tasks WHERE id = :id"), {"id": task_id})
        return dict(found.mappings().one())


def box(database: sa.Engine) -> list[tuple[str, int]]:
    with database.begin() as connection:
        rows = connection.execute(
            sa.text("SELECT CAST(task_id AS text), attempt FROM outbox ORDER BY task_id")
        )
        return [(row[0], row[1]) for row in rows]


def age(database: sa.Engine, task_id: str, seconds: float, publishes: int = 1) -> None:
    """Make a row look as if it had been published `seconds` ago, for the nth time."""
    with database.begin() as connection:
        connection.execute(
            sa.text(
                "UPDATE outbox SET publishes = :n,"
                " published_at = now() - make_interval(secs => :age) WHERE task_id = :id"
            ),
            {"id": task_id, "age": seconds, "n": publishes},
        )
