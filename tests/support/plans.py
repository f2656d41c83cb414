"""How PostgreSQL executes a statement."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

# For stable plans: without autovacuum, the statistics stay as they are at this time.
KEEP_STATISTICS = (
    "ALTER TABLE tasks SET (autovacuum_enabled = false);"
    "ALTER TABLE outbox SET (autovacuum_enabled = false)"
)


def plan(connection: sa.Connection, statement: sa.TextClause, parameters: dict[str, Any]) -> str:
    """Run a statement, return its plan with the real numbers as JSON text, and roll back."""
    *settings, last = statement.text.split(";")
    for setting in map(sa.text, settings):
        needed = setting.compile().params.keys()
        connection.execute(setting, {name: parameters[name] for name in needed})
    explain = sa.text(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {last}")
    done = connection.execute(explain, parameters).scalar_one()
    connection.rollback()
    return json.dumps(done)


def blocks(connection: sa.Connection, statement: sa.TextClause, parameters: dict[str, Any]) -> int:
    """Run a statement, return how many blocks it reads, and roll back."""
    (done,) = json.loads(plan(connection, statement, parameters))
    return int(done["Plan"]["Shared Hit Blocks"] + done["Plan"]["Shared Read Blocks"])


WAITING = 20_000
# Statistics from when all tasks had ended, followed by a burst.
BURST = [
    KEEP_STATISTICS,
    f"""
    INSERT INTO tasks (id, name, args, state, result, max_attempts, started_at, finished_at)
    SELECT gen_random_uuid(), 'slow', '{{}}', 'SUCCESS', '{{}}', 3, now(), now()
    FROM generate_series(1, {WAITING})
    """,
    "ANALYZE tasks, outbox",
    f"""
    INSERT INTO tasks (id, name, args, max_attempts)
    SELECT gen_random_uuid(), 'slow', '{{}}', 3 FROM generate_series(1, {WAITING})
    """,
    "INSERT INTO outbox (task_id) SELECT id FROM tasks WHERE state = 'PENDING'",
]


def burst(database: sa.Engine, *more: str) -> None:
    for statement in (*BURST, *more):
        with database.begin() as connection:
            connection.exec_driver_sql(statement)
