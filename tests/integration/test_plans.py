"""What statements read when PostgreSQL's statistics are outdated by a burst of new tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from backend.db import ledger, locked, outbox, queries, running
from tests.support.plans import WAITING, blocks, burst, plan

if TYPE_CHECKING:
    from collections.abc import Sequence

# Tasks that a statement is about.
FEW = 10
# Blocks that it may read and write for each of them; each index lookup reads three.
BLOCKS = 30


def statements(ids: Sequence[str]) -> dict[str, tuple[sa.TextClause, dict[str, Any]]]:
    """Return statements about some of the tasks, with these as parameters."""
    one: dict[str, Any] = {"id": ids[0], "attempt": 1, "state": "SUCCESS", "result": "{}"}
    few: dict[str, Any] = {"ids": ids, "attempts": [1] * len(ids)}
    held = {"worker": "w", "in_time": False}
    ends: dict[str, Any] = {
        "worker": "w",
        "waiting": True,
        "error": None,
        "error_type": None,
        "began": None,
    }
    rows = {name: [value] * len(ids) for name, value in (("states", "SUCCESS"), ("results", "{}"))}
    return {
        "claim": (
            ledger._CLAIM[True, False],
            {**few, **held, "declared": 5},
        ),
        "set limit": (locked._SET_MAX_ATTEMPTS, {**one, "declared": 5}),
        "hold": (locked._HOLD, {**few, **held}),
        "hold one": (locked._HOLD_ONE, {**few, **held}),
        "hold what is not locked": (locked._HOLD_BRIEFLY, {**few, **held}),
        "finish one": (ledger._FINISH_ONE, {**one, **ends, "name": "w"}),
        "finish": (
            ledger._FINISH,
            {**few, **rows, **ends, "errors": [None] * len(ids), "name": "w"},
        ),
        "reschedule": (
            ledger._RESCHEDULE,
            {**few, **ends, "free": True, "requested": False, "delay": 0},
        ),
        "lock": (locked._LOCK, few),
        "lock what a worker has started": (locked._LOCK_STARTED_BY, {"worker": "w"}),
        "progress": (running._PROGRESS, {**one, "progress": "1/2"}),
        "states": (queries._STATES, few),
        "known": (queries._KNOWN, few),
        "put back": (outbox._PUT_BACK, few),
        "started": (queries._STARTED, {}),
    }


def test_a_statement_about_some_tasks_does_not_read_the_whole_backlog(database: sa.Engine) -> None:
    burst(database)
    some = sa.text("SELECT CAST(task_id AS text) FROM outbox LIMIT :few")
    with database.connect() as connection:
        ids = list(connection.execute(some, {"few": FEW}).scalars())
        read = {
            name: blocks(connection, statement, parameters) / (FEW if "ids" in parameters else 1)
            for name, (statement, parameters) in statements(ids).items()
        }
    assert len(ids) == FEW
    assert max(read.values()) < BLOCKS, read


@pytest.mark.parametrize("name", ["finish", "reschedule"])
def test_tasks_are_looked_up_by_index_in_a_small_table_too(database: sa.Engine, name: str) -> None:
    """A join would read the whole table."""
    with database.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO tasks (id, name, args, max_attempts)"
            " SELECT gen_random_uuid(), 'slow', '{}', 3 FROM generate_series(1, 3000)"
        )
    with database.begin() as connection:
        connection.exec_driver_sql("ANALYZE tasks")
        few = sa.text("SELECT CAST(id AS text) FROM tasks LIMIT 100")
        ids = list(connection.execute(few).scalars())
        statement, parameters = statements(ids)[name]
        assert "Seq Scan" not in plan(connection, statement, parameters)


def test_the_list_reads_due_times_only_for_the_tasks_shown(database: sa.Engine) -> None:
    burst(database, "UPDATE outbox SET due_at = now() + interval '1 h'")
    with database.connect() as connection:
        shown, total = queries.unfinished(connection, FEW, counted=WAITING)
    with database.connect() as connection:
        asked = {"limit": FEW, "few": queries.FEW}
        read = blocks(connection, queries._LIST, asked)
    assert (set(shown.values()), len(shown), total) == ({"SCHEDULED"}, FEW, WAITING)
    assert read < BLOCKS * FEW
