"""Scan bounds: scans skip old rows while an old snapshot is open, and miss none."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from backend.db import bounds, ledger, locked, lost_messages, outbox, queries
from tests.support.bounds import advanced, backdate, below, minutes, take
from tests.support.ledger import publish, submit
from tests.support.plans import KEEP_STATISTICS, blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

ENDED = 20_000
# All steps of tasks that were accepted ten minutes ago and have ended since.
CHURN = [
    f"""
    INSERT INTO tasks (id, name, args, max_attempts, created_at)
    SELECT gen_random_uuid(), 'slow', '{{}}', 3, now() - interval '10 min' + n * interval '1 us'
    FROM generate_series(1, {ENDED}) n
    """,
    "INSERT INTO outbox (task_id, due_at) SELECT id, created_at FROM tasks",
    "UPDATE outbox SET published_at = due_at",
    "ANALYZE tasks, outbox",
    "UPDATE tasks SET state = 'STARTED', started_at = created_at, worker = 'w'",
    "DELETE FROM outbox",
    "UPDATE tasks SET state = 'SUCCESS', finished_at = now()",
]

STATEMENTS: dict[str, tuple[sa.TextClause, dict[str, Any]]] = {
    "take": (outbox._TAKE_OLDEST, {"limit": 500, "bytes": outbox.TAKE_BYTES}),
    "other priorities": (outbox._HAS_LEVELS, {}),
    "take urgent": (outbox._TAKE_MOST_URGENT, {"limit": 500, "bytes": outbox.TAKE_BYTES}),
    "published": (lost_messages._PUBLISHED, {}),
    "oldest published": (lost_messages._OLDEST, {"limit": 10, "queue": "tasks"}),
    "republish overtaken": (
        lost_messages._REPUBLISH_OVERTAKEN,
        {"limit": 10, "queue": "tasks", "names": ["slow"]},
    ),
    "backlog": (outbox._WAITING, {"limit": 100_000}),
    "late": (outbox._HAS_OVERDUE, {}),
    "unfinished": (queries._LIST, {"limit": 1000, "few": queries.FEW}),
    "count": (queries._COUNT, {"limit": None}),
    "started": (queries._STARTED, {}),
    "hand back": (locked._LOCK_STARTED_BY, {"worker": "w"}),
}


@contextmanager
def old_snapshot(database: sa.Engine) -> Iterator[None]:
    """Keep a snapshot open, as pg_dump does."""
    with database.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        connection.execute(sa.text("SELECT count(*) FROM tasks"))
        yield


def test_a_scan_skips_tasks_that_ended_since_an_old_snapshot(database: sa.Engine) -> None:
    with old_snapshot(database):
        for statement in [KEEP_STATISTICS, *CHURN]:
            with database.begin() as connection:
                connection.exec_driver_sql(statement)
        submit(database, 3)
        with database.connect() as connection:
            before = {
                name: blocks(connection, *statement) for name, statement in STATEMENTS.items()
            }
        advanced(database)
        with database.connect() as connection:
            after = {name: blocks(connection, *statement) for name, statement in STATEMENTS.items()}
    assert min(before.values()) > ENDED / 100, "without bounds the scan should read many blocks"
    assert max(after.values()) < 100, (before, after)


def test_a_bound_is_the_oldest_row_and_at_least_a_minute_ago(database: sa.Engine) -> None:
    advanced(database)
    bound = {"unfinished_from": 1, "started_from": 1, "due_from": 1, "published_from": 1}
    assert minutes(database) == bound
    ids = submit(database, 3)
    with database.begin() as connection:
        ledger.claim(connection, {ids[0]: 1}, "w")
        publish(connection, 1)
    backdate(database)
    with database.begin() as connection:
        connection.execute(sa.text("UPDATE tasks SET started_at = now() - interval '5 min'"))
        connection.execute(sa.text("UPDATE outbox SET published_at = now() - interval '7 min'"))
        connection.execute(
            sa.text("UPDATE outbox SET published_at = NULL WHERE task_id = :id"), {"id": ids[2]}
        )
    advanced(database, every_row=True)
    bound = {"unfinished_from": 10, "started_from": 5, "due_from": 10, "published_from": 7}
    assert minutes(database) == bound


def test_a_bound_follows_the_earlier_of_the_given_time_and_the_clock(
    database: sa.Engine,
) -> None:
    for offset, age in (("-5 min", 6), ("1 h", 1)):
        with database.begin() as connection:
            now = connection.execute(
                sa.text("SELECT now() + CAST(:offset AS interval)"), {"offset": offset}
            ).scalar_one()
            bounds.advance(connection, now)
        assert set(minutes(database).values()) == {age}


def test_a_backdated_row_is_found_when_every_row_is_read(
    database: sa.Engine,
) -> None:
    advanced(database)
    ids = submit(database, 2)
    backdate(database)
    with database.begin() as connection:
        assert take(connection) == []
        assert below(connection) > 0
    advanced(database, every_row=True)
    with database.begin() as connection:
        assert take(connection) == ids
        assert below(connection) == 0


def test_rows_written_after_the_clock_was_set_back_are_found_at_once(database: sa.Engine) -> None:
    with database.begin() as connection:
        connection.execute(
            sa.text(
                "UPDATE scan_bounds SET due_from = now() + interval '1 h',"
                " unfinished_from = now() + interval '1 h',"
                " started_from = now() + interval '1 h', published_from = now() + interval '1 h'"
            )
        )
    ids = submit(database, 2)
    with database.begin() as connection:
        assert take(connection) == ids
        assert lost_messages.published(connection) == {"tasks": 2}
        assert queries.unfinished(connection, 10)[1] == 2
        ledger.claim(connection, {ids[0]: 1}, "w")
        assert [attempt.task_id for attempt in queries.started(connection)] == [ids[0]]


def test_without_bounds_every_row_is_found(database: sa.Engine) -> None:
    ids = submit(database, 2)
    backdate(database)
    with database.begin() as connection:
        connection.execute(sa.text("DELETE FROM scan_bounds"))
        assert take(connection) == ids
