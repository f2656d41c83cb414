"""Dropped messages of tasks that the ledger has, and of others."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import uuid4

import pytest
import sqlalchemy as sa

from backend.db import leases, session
from backend.registry import registered
from backend.worker import stray_messages
from tests.support.attempts import run_alone, run_together
from tests.support.ledger import lock_waiters, put, submit
from tests.support.readiness import readiness
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.support.servers import Postgres

    Drop: TypeAlias = Callable[[str, Sequence[str]], None]

TROUBLE = "messages of tasks that this database does not have"


@pytest.fixture
def worker(service: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give a worker with a lease, whose process has looked up no message yet."""
    monkeypatch.setattr(stray_messages, "_pause_until", 0.0)
    with service.begin() as connection:
        leases.renew(connection, "w", list)
    return "w"


@pytest.fixture
def drop(worker: str) -> Drop:
    """Give the function that the worker's processes call."""
    return lambda queue, ids: stray_messages.note_dropped(worker, queue, ids)


@pytest.mark.parametrize("state", ["PENDING", "STARTED", "RETRY", "SUCCESS", "FAILURE", "REVOKED"])
def test_a_dropped_message_of_a_known_task_is_not_reported(
    service: sa.Engine, drop: Drop, caplog: pytest.LogCaptureFixture, state: str
) -> None:
    drop("tasks", [put(service, state), put(service, state)])
    assert readiness()[0].faults == []
    assert caplog.messages == []


def test_a_stray_message_is_logged_once_and_stays_reported_after_lease_renewals(
    service: sa.Engine, worker: str, drop: Drop, caplog: pytest.LogCaptureFixture
) -> None:
    drop("short_tasks", [put(service, "SUCCESS"), str(uuid4())])
    with service.begin() as connection:
        leases.renew(connection, worker, list)
    (fault,) = readiness()[0].faults
    (line,) = caplog.messages
    assert line == fault
    assert TROUBLE in line
    assert "queue short_tasks has" in line


def test_a_process_looks_up_no_messages_after_it_reported_a_stray_one(drop: Drop) -> None:
    looked_up: list[str] = []

    def note(*executed: Any) -> None:
        statement = executed[2]
        if statement.startswith("SELECT CAST(id AS text) FROM tasks"):
            looked_up.append(statement)

    sa.event.listen(session.autocommit(), "before_cursor_execute", note)
    for _ in range(3):
        drop("tasks", [str(uuid4())])
    assert len(looked_up) == 1


def test_only_one_of_two_processes_that_notice_stray_messages_warns(
    service: sa.Engine, worker: str
) -> None:
    second: list[bool] = []

    def note() -> None:
        with service.begin() as connection:
            second.append(leases.note_stray(connection, worker, "tasks"))

    thread = threading.Thread(target=note)
    with service.connect() as connection:
        assert leases.note_stray(connection, worker, "tasks")
        thread.start()
        eventually(lambda: lock_waiters(service), 4, "the second transaction waits")
        connection.commit()
    thread.join()
    assert second == [False]


def test_health_forgets_stray_messages_after_ten_minutes_and_the_next_is_logged(
    service: sa.Engine, worker: str
) -> None:
    with service.begin() as connection:
        assert leases.note_stray(connection, worker, "tasks")
        assert not leases.note_stray(connection, worker, "tasks")
        connection.exec_driver_sql("UPDATE workers SET stray_at = now() - interval '10 min'")
        assert leases.stray_queues(connection) == []
        assert leases.note_stray(connection, worker, "tasks")
        assert leases.stray_queues(connection) == ["tasks"]


def test_a_message_dropped_while_postgresql_is_unavailable_stays_dropped(
    service: sa.Engine, postgres: Postgres, drop: Drop, caplog: pytest.LogCaptureFixture
) -> None:
    admin = sa.create_engine(postgres.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with admin.connect() as connection:
        connection.exec_driver_sql(f"ALTER DATABASE {service.url.database} ALLOW_CONNECTIONS false")
    session.autocommit().dispose()
    drop("tasks", [str(uuid4())])
    assert [line for line in caplog.messages if "PostgreSQL" not in line] == []
    assert caplog.messages != [], "the outage is logged"


def test_a_batch_looks_up_the_tasks_it_drops(
    service: sa.Engine, worker: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "backend.worker.attempt")
    again = put(service, "SUCCESS")
    (mine,) = submit(service)
    theirs, also_theirs = str(uuid4()), str(uuid4())
    spec, arguments = registered()["insert_message"], '{"content": "Hello"}'
    assert worker == "w", "run_together uses the worker w"
    assert list(run_together(spec, [mine, again], arguments).ended) == [mine]
    assert readiness()[0].faults == []
    caplog.clear()
    assert run_together(spec, [theirs, also_theirs], arguments).ended == {}
    (fault,) = readiness()[0].faults
    assert "queue short_tasks has" in fault
    dropped = "dropped: the task does not wait for this attempt"
    assert caplog.messages == [
        f"insert_message[{theirs}] {dropped}",
        f"insert_message[{also_theirs}] {dropped}",
        fault,
    ]


def test_a_dropped_single_attempt_is_looked_up(service: sa.Engine, worker: str) -> None:
    spec = registered()["slow"]
    run_alone(spec, put(service, "SUCCESS"), '{"duration": 0}', worker=worker)
    assert readiness()[0].faults == []
    run_alone(spec, str(uuid4()), '{"duration": 0}', worker=worker)
    (fault,) = readiness()[0].faults
    assert "queue tasks has" in fault
