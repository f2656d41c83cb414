"""Dropped messages: of a task that the ledger has, or of one that it does not."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeAlias
from unittest.mock import Mock
from uuid import uuid4

import pytest

from backend.db import lookups, workers
from tests.integration.test_ledger import put
from tests.integration.test_session import readiness

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import sqlalchemy as sa

    Drop: TypeAlias = Callable[[str, Sequence[str]], None]

TROUBLE = "messages of tasks that this database does not have"


@pytest.fixture
def worker(service: sa.Engine) -> str:
    """Give a worker with a lease."""
    with service.begin() as connection:
        workers.renew(connection, "w", list)
    return "w"


@pytest.fixture
def drop(worker: str, monkeypatch: pytest.MonkeyPatch) -> Drop:
    """Give what the worker's processes call; this one has looked up nothing yet."""
    from backend.worker import unknown_tasks

    monkeypatch.setattr(unknown_tasks, "_pause_until", 0.0)
    return lambda queue, ids: unknown_tasks.Dropped(worker, queue, ids).record()


@pytest.mark.parametrize("state", ["PENDING", "STARTED", "RETRY", "SUCCESS", "FAILURE", "REVOKED"])
def test_a_dropped_message_of_a_task_that_the_ledger_has_is_no_trouble(
    service: sa.Engine, drop: Drop, caplog: pytest.LogCaptureFixture, state: str
) -> None:
    drop("tasks", [put(service, state), put(service, state)])
    assert readiness()[0].faults == []
    assert caplog.messages == []


def test_an_unknown_task_is_logged_once_and_named_by_health_after_each_renewal_too(
    service: sa.Engine, worker: str, drop: Drop, caplog: pytest.LogCaptureFixture
) -> None:
    drop("short_tasks", [put(service, "SUCCESS"), str(uuid4())])
    with service.begin() as connection:
        workers.renew(connection, worker, list)
    (fault,) = readiness()[0].faults
    (line,) = caplog.messages
    assert line == fault
    assert TROUBLE in line
    assert "the queue short_tasks" in line


def test_while_trouble_lasts_a_process_looks_up_no_further_messages(
    drop: Drop, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Mock(wraps=lookups.known)
    monkeypatch.setattr(lookups, "known", known)
    for _ in range(3):
        drop("tasks", [str(uuid4())])
    known.assert_called_once()


def test_of_two_processes_that_notice_at_the_same_time_one_warns(
    service: sa.Engine, worker: str
) -> None:
    first: list[bool] = []

    def note() -> None:
        with service.begin() as connection:
            first.append(workers.note_unknown(connection, worker, "tasks"))

    threads = [threading.Thread(target=note) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(first) == [False] * 4 + [True]


def test_ten_minutes_after_the_last_message_health_forgets_it_and_the_next_is_logged(
    service: sa.Engine, worker: str
) -> None:
    with service.begin() as connection:
        assert workers.note_unknown(connection, worker, "tasks")
        assert not workers.note_unknown(connection, worker, "tasks")
        connection.exec_driver_sql("UPDATE workers SET unknown_at = now() - interval '10 min'")
        assert workers.unknown_queues(connection) == []
        assert workers.note_unknown(connection, worker, "tasks")
        assert workers.unknown_queues(connection) == ["tasks"]


def test_with_postgresql_away_a_dropped_message_stays_dropped(
    drop: Drop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from backend.errors import StoreUnavailable

    def away(*_: object) -> set[str]:
        raise StoreUnavailable

    monkeypatch.setattr(lookups, "known", away)
    drop("tasks", [str(uuid4())])
    assert caplog.messages == []
