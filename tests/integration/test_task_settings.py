"""What a task changes in its connection: settings, locks and temporary tables."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from backend.db import connection, session
from backend.worker.attempt import retry
from tests.support.task_session import raw, run_once, sql

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.task_session import Action

LIMITS = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
SETTINGS = ["SET search_path TO nowhere", "SET LOCAL search_path TO nowhere", "RESET ALL"]


@pytest.mark.parametrize(
    "statement", [*SETTINGS, "DISCARD TEMP", "SELECT set_config('a.b', '', false)"]
)
def test_a_short_task_cannot_change_the_session_state_for_the_next_one(
    service: sa.Engine, statement: str
) -> None:
    assert run_once(service, sql(statement), one_commit=True)["state"] == "FAILURE"


def test_a_short_task_cannot_change_settings_by_callproc(service: sa.Engine) -> None:
    action = raw(lambda c: c.cursor().callproc("set_config", ["a.b", "", False]))
    assert run_once(service, action, one_commit=True)["state"] == "FAILURE"


@pytest.mark.parametrize(
    "statement",
    [
        *SETTINGS,
        "SET SESSION search_path TO nowhere",
        "SELECT set_config('search_path', 'nowhere', false)",
        "SET ROLE pg_monitor; RESET ROLE; SET ROLE postgres",
        "SET default_transaction_read_only = on",
        "SET TIME ZONE 'Asia/Tokyo'",
        "SET statement_timeout = 200",
        (
            "CREATE FUNCTION f() RETURNS text LANGUAGE sql AS"
            " $$SELECT set_config('search_path', 'nowhere', false)$$; SELECT f()"
        ),
    ],
)
def test_settings_of_one_task_do_not_affect_the_next(service: sa.Engine, statement: str) -> None:
    def settings() -> list[Any]:
        with session.transaction() as connection:
            found = connection.exec_driver_sql(
                "SELECT pg_backend_pid(), current_user, name, setting FROM pg_settings"
                " WHERE name NOT LIKE 'transaction%%' AND name NOT LIKE 'plpgsql%%'"
                " ORDER BY name"
            )
            return [tuple(row) for row in found]

    before = settings()
    assert run_once(service, sql(statement), one_commit=False)["state"] == "SUCCESS"
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
def test_session_state_that_survives_a_transaction_ends_with_its_connection(
    service: sa.Engine, statement: str, *, one_commit: bool
) -> None:
    for _ in range(2):
        assert run_once(service, sql(statement), one_commit=one_commit)["state"] == "SUCCESS"
    with session.transaction() as connection:
        held = connection.exec_driver_sql(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        )
        assert held.scalar_one() == 0


def limits(session: Session) -> list[str]:
    """Return the limits of a transaction as PostgreSQL shows them."""
    return [session.execute(sa.text(f"SHOW {name}")).scalar_one() for name in LIMITS]


def test_a_tasks_transaction_uses_the_tasks_time_limit_as_its_limits(
    service: sa.Engine,
) -> None:
    shown: list[list[str]] = []
    row = run_once(service, lambda own: shown.append(limits(own)), one_commit=False)
    assert row["state"] == "SUCCESS"
    with Session(session.engine()) as next_one:
        shown.append(limits(next_one))
    assert shown == [["1min"] * 3, ["10s", "5s", "10s"]]


@pytest.fixture
def short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the limits of connections short enough for a test."""
    for name in LIMITS:
        monkeypatch.setitem(connection._SETTINGS, name, "200ms")


def compute(session: Session) -> None:
    """Do other work between two statements."""
    session.execute(sa.text("SELECT 1"))
    time.sleep(0.5)  # the work, longer than the limits
    session.execute(sa.text("SELECT 1"))


def wait_for_a_lock(session: Session) -> None:
    """Wait until another session releases its lock."""
    url = session.get_bind().engine.url.set(drivername="postgresql")
    other = psycopg2.connect(url.render_as_string(hide_password=False))
    other.cursor().execute("SELECT pg_advisory_lock(7)")
    timer = threading.Timer(0.5, other.close)
    timer.start()
    try:
        session.execute(sa.text("SELECT pg_advisory_xact_lock(7)"))
    finally:
        timer.join()


SLOW: Mapping[str, Action] = {
    "a statement": sql("SELECT pg_sleep(0.5)"),
    "a pause between statements": compute,
    "a lock": wait_for_a_lock,
}


@pytest.mark.usefixtures("short_limits")
@pytest.mark.parametrize("action", SLOW.values(), ids=SLOW)
def test_an_ordinary_task_may_exceed_the_default_transaction_limits(
    service: sa.Engine, action: Action
) -> None:
    assert run_once(service, action, one_commit=False)["state"] == "SUCCESS"


@pytest.mark.usefixtures("short_limits")
@pytest.mark.parametrize("action", SLOW.values(), ids=SLOW)
def test_a_short_task_keeps_the_default_transaction_limits(
    service: sa.Engine, monkeypatch: pytest.MonkeyPatch, action: Action
) -> None:
    """A slow short task would delay its batch, so the batch runs again without it."""
    monkeypatch.setattr(retry, "RETRY_SECONDS", 1)
    assert run_once(service, action, one_commit=True)["state"] != "SUCCESS"
