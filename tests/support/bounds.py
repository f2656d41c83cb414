"""Scan bounds: raised, read, and compared with the rows."""

from __future__ import annotations

import sqlalchemy as sa

from backend.db import bounds
from tests.support.ledger import publish


def advance(connection: sa.Connection) -> None:
    """Advance the bounds as the reconciler does while PostgreSQL's clock is steady."""
    now = connection.execute(sa.text("SELECT now()")).scalar_one()
    bounds.advance(connection, now)


def advanced(database: sa.Engine, *, every_row: bool = False) -> None:
    with database.begin() as connection:
        advance(connection)
        if every_row:
            bounds.lower(connection)


def minutes(database: sa.Engine) -> dict[str, float]:
    """Return the age of each bound in minutes, rounded down."""
    with database.begin() as connection:
        row = connection.execute(sa.text("SELECT * FROM scan_bounds")).mappings().one()
        now = connection.execute(sa.text("SELECT now()")).scalar_one()
    return {
        bound: (now - time).total_seconds() // 60
        for bound, time in row.items()
        if bound != "only_row"
    }


def below(connection: sa.Connection) -> int:
    """Return how many rows are older than the bound of their scan."""
    found = sa.text(
        "SELECT"
        " (SELECT count(*) FROM outbox WHERE published_at IS NULL AND due_at < due_from)"
        " + (SELECT count(*) FROM outbox WHERE published_at < published_from)"
        " + (SELECT count(*) FROM tasks WHERE state IN ('PENDING', 'STARTED', 'RETRY')"
        " AND created_at < unfinished_from)"
        " + (SELECT count(*) FROM tasks WHERE state = 'STARTED' AND started_at < started_from)"
        " FROM scan_bounds"
    )
    return int(connection.execute(found).scalar_one())


def backdate(database: sa.Engine) -> None:
    """Make every waiting task look as if it had been accepted ten minutes ago."""
    with database.begin() as connection:
        connection.execute(
            sa.text(
                "UPDATE outbox SET due_at = due_at - interval '10 min',"
                " published_at = published_at - interval '10 min'"
            )
        )
        connection.execute(sa.text("UPDATE tasks SET created_at = created_at - interval '10 min'"))


def take(connection: sa.Connection) -> list[str]:
    return sorted(due.task_id for due in publish(connection, 500))
