"""Accepted tasks that are not due yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.stack import Stack


def enter(service: Stack, count: int, due: str, created: str = "0 s") -> list[str]:
    """Insert `count` accepted tasks; return their ids, oldest first.

    `due` and `created` are intervals from now, as PostgreSQL writes them.
    """
    rows = service.query(
        "WITH new AS (INSERT INTO tasks (id, name, args, max_attempts, created_at)"
        " SELECT gen_random_uuid(), 'slow', '{\"duration\": 0}', 5,"
        "   now() + CAST(%s AS interval) + n * interval '1 ms' FROM generate_series(1, %s) n"
        " RETURNING id, created_at),"
        " box AS (INSERT INTO outbox (task_id, due_at)"
        " SELECT id, now() + CAST(%s AS interval) FROM new),"
        # The list starts at this time, and the API writes no row this old.
        " bound AS (UPDATE scan_bounds SET unfinished_from = '-infinity')"
        " SELECT CAST(id AS text) FROM new ORDER BY created_at",
        created, count, due,
    )  # fmt: skip
    return [str(row[0]) for row in rows]


def remove(service: Stack, ids: list[str]) -> None:
    for table, key in (("outbox", "task_id"), ("tasks", "id")):
        sql = f"DELETE FROM {table} WHERE CAST({key} AS text) = ANY(%s) RETURNING 1"
        service.query(sql, ids)
