"""Claims whose commit is not flushed: what clients see, and what a crash of PostgreSQL leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
import sqlalchemy as sa

from backend.db import ledger, queries, running, session
from backend.task import Task
from backend.tasks.slow import SlowArguments, slow
from tests.support.attempts import attempt_of
from tests.support.ledger import box, put, submit
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.support.servers import Postgres


def state(database: sa.Engine, task_id: str) -> str:
    """Return the state that clients read."""
    with database.connect() as connection:
        (record,) = queries.states(connection, [task_id])
    assert record is not None
    assert record.state is not None
    return str(record.state)


@pytest.mark.parametrize(("attempt", "waits"), [(1, "PENDING"), (2, "RETRY")])
def test_started_is_reported_a_second_after_the_claim(
    database: sa.Engine, attempt: int, waits: str
) -> None:
    task_id = put(database, waits, attempt)
    with database.begin() as connection:
        assert ledger.claim(connection, {task_id: attempt}, "w").ids
    assert state(database, task_id) == waits
    with database.begin() as connection:
        connection.exec_driver_sql("UPDATE tasks SET started_at = now() - interval '1.1 s'")
    assert state(database, task_id) == "STARTED"


def test_started_is_reported_with_the_first_progress(database: sa.Engine) -> None:
    (task_id,) = submit(database)
    with database.begin() as connection:
        assert ledger.claim(connection, {task_id: 1}, "w", flush=False).ids
    with database.begin() as connection:
        assert running.progress(connection, task_id, 1, 1, 2)
    assert state(database, task_id) == "STARTED"


def test_started_is_reported_if_the_clock_was_set_back(database: sa.Engine) -> None:
    task_id = put(database, "STARTED")
    with database.begin() as connection:
        connection.exec_driver_sql("UPDATE tasks SET started_at = now() + interval '1 h'")
    assert state(database, task_id) == "STARTED"


@pytest.mark.parametrize(
    ("max_attempts", "external", "flushed"), [(3, False, False), (1, False, True), (3, True, True)]
)
def test_only_a_claim_that_can_be_repeated_is_not_flushed(
    service: sa.Engine, max_attempts: int, *, external: bool, flushed: bool
) -> None:
    spec = Task("slow", slow, SlowArguments, max_attempts, 60, one_commit=False)
    task_id = str(uuid4())
    if not external:
        (task_id,) = submit(service, max_attempts=max_attempts)
    with service.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO workers (name, renewed_at, expires_at, holds)"
            " VALUES ('w', now(), now() + interval '1 min', '{}')"
        )
    seen: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    sa.event.listen(session.engine(), "before_cursor_execute", note)
    try:
        arguments = (0,) if external else ('{"duration": 0}',)
        attempt_of(spec, task_id, *arguments, external=external).claim()
    finally:
        sa.event.remove(session.engine(), "before_cursor_execute", note)
    (claim,) = [statement for statement in seen if "UPDATE tasks SET state" in statement]
    assert ("synchronous_commit = off" not in claim) == flushed


def test_a_claim_that_a_crash_has_forgotten_was_not_reported(
    database: sa.Engine, postgres: Postgres
) -> None:
    (task_id,) = submit(database)
    with database.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ALTER SYSTEM SET wal_writer_delay = '10s'")
        connection.exec_driver_sql("SELECT pg_reload_conf()")
    try:
        delay = sa.text("SELECT current_setting('wal_writer_delay')")
        with database.connect() as connection:
            eventually(lambda: connection.execute(delay).scalar() == "10s", 10, "it is set")
        with database.begin() as connection:
            assert ledger.claim(connection, {task_id: 1}, "w", flush=False).ids
        assert state(database, task_id) == "PENDING"
        postgres.restart("immediate")
        database.dispose()
        assert state(database, task_id) == "PENDING"
        assert box(database) == [(task_id, 1)]
        with database.begin() as connection:
            assert ledger.claim(connection, {task_id: 1}, "other").ids == {task_id}
    finally:
        with database.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("ALTER SYSTEM RESET wal_writer_delay")
            connection.exec_driver_sql("SELECT pg_reload_conf()")
