"""What a task changes in its connection: settings, locks, temporary tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from backend.errors import TaskError
from tests.integration.test_task_session import run_alone, sql

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

SETTINGS = ["SET search_path TO nowhere", "SET LOCAL search_path TO nowhere", "RESET ALL"]


@pytest.mark.parametrize(
    "statement", [*SETTINGS, "DISCARD TEMP", "SELECT set_config('a.b', '', false)"]
)
def test_a_task_of_one_commit_cannot_change_what_the_next_one_would_meet(
    service: sa.Engine, statement: str
) -> None:
    _, error = run_alone(service, sql(statement), one_commit=True)
    assert error is TaskError


@pytest.mark.parametrize(
    "statement",
    [
        *SETTINGS,
        "SET SESSION search_path TO nowhere",
        "SELECT set_config('search_path', 'nowhere', false)",
        "SET ROLE pg_monitor; RESET ROLE; SET ROLE postgres",
        "SET default_transaction_read_only = on",
        "SET TIME ZONE 'Asia/Tokyo'",
        "SET statement_timeout = 1",
        (
            "CREATE FUNCTION f() RETURNS text LANGUAGE sql AS"
            " $$SELECT set_config('search_path', 'nowhere', false)$$; SELECT f()"
        ),
    ],
)
def test_settings_of_one_task_do_not_reach_the_next(service: sa.Engine, statement: str) -> None:
    from backend.db import session

    def settings() -> list[Any]:
        with session.transaction() as connection:
            found = connection.exec_driver_sql(
                "SELECT pg_backend_pid(), current_user, name, setting FROM pg_settings"
                " WHERE name NOT LIKE 'transaction%%' AND name NOT LIKE 'plpgsql%%'"
                " ORDER BY name"
            )
            return [tuple(row) for row in found]

    before = settings()
    _, error = run_alone(service, sql(statement), one_commit=False)
    assert error is None
    assert settings() == before, "on the same connection"


@pytest.mark.parametrize("one_commit", [False, True], ids=["ordinary", "one commit"])
@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TEMP TABLE scratch (id int)",
        "SELECT 1 AS id INTO TEMPORARY scratch",
        "CREATE TABLE pg_temp.scratch (id int)",
        "SELECT pg_advisory_lock(7)",
        "SELECT pg_try_advisory_lock(7, 8)",
        "SELECT pg_advisory_lock_shared(7)",
        "PREPARE statement AS SELECT 1",
        "LISTEN something",
        "DECLARE rows CURSOR WITH HOLD FOR SELECT 1",
    ],
)
def test_what_outlasts_a_transaction_goes_with_its_connection(
    service: sa.Engine, statement: str, *, one_commit: bool
) -> None:
    from backend.db import session

    for _ in range(2):
        _, error = run_alone(service, sql(statement), one_commit=one_commit)
        assert error is None
    with session.transaction() as connection:
        held = connection.exec_driver_sql(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        )
        assert held.scalar_one() == 0


def test_a_tasks_own_statement_may_take_as_long_as_the_task(service: sa.Engine) -> None:
    from backend.db import session

    limits: list[object] = []

    def note(own: Session) -> None:
        names = ("statement_timeout", "idle_in_transaction_session_timeout")
        limits.extend(own.execute(sa.text(f"SHOW {name}")).scalar_one() for name in names)

    assert run_alone(service, note, one_commit=False)[1] is None
    with session.transaction() as connection:
        limits.append(connection.exec_driver_sql("SHOW statement_timeout").scalar_one())
    assert limits == ["1min", "1min", "10s"]
