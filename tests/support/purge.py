"""Ended tasks of a known age, for the tests of the purge."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

if TYPE_CHECKING:
    from collections.abc import Sequence

_INSERT = sa.text(
    """
    INSERT INTO tasks (id, name, args, state, result, max_attempts, finished_at)
    SELECT gen_random_uuid(), 'slow', '{}', :state, to_json(CAST(:result AS text)), 3,
        now() - make_interval(days => :days)
    FROM generate_series(1, :count)
    RETURNING CAST(id AS text)
    """
)


def insert(
    database: sa.Engine, days: int, count: int = 1, state: str = "SUCCESS", result: str = ""
) -> Sequence[str]:
    """Insert tasks with ids of version 4 that ended some days ago; return the ids."""
    values = {"days": days, "count": count, "state": state, "result": result}
    with database.begin() as connection:
        return connection.execute(_INSERT, values).scalars().all()


def left(database: sa.Engine) -> set[str]:
    """Return the ids of all tasks."""
    with database.connect() as connection:
        return set(connection.execute(sa.text("SELECT CAST(id AS text) FROM tasks")).scalars())
