"""The purge of tasks that ended long ago."""

from __future__ import annotations

import os
import re
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from backend.db import messages, purge
from backend.ids import new_task_id
from backend.maintenance import purge as duty
from backend.maintenance.reconciler import Reconciler
from backend.settings import settings
from tests.support.ledger import put, task
from tests.support.purge import insert, left

MONTH = timedelta(days=30)


def delete(
    database: sa.Engine, so_far: purge.Progress | None = None, now: datetime | None = None
) -> purge.Progress:
    """Delete one batch of the tasks that ended more than 30 days ago."""
    with database.begin() as connection:
        return purge.delete(connection, so_far or purge.Progress(), MONTH, now or datetime.now(UTC))


def resume(database: sa.Engine, rest: float = 0) -> purge.Progress | None:
    with database.begin() as connection:
        return purge.resume(connection, MONTH, datetime.now(UTC), rest)


def execute(database: sa.Engine, *statements: str) -> None:
    for statement in statements:
        with database.begin() as connection:
            connection.exec_driver_sql(statement)


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a batch one page, without a pause after it."""
    monkeypatch.setattr(purge, "BATCH_PAGES", 1)
    monkeypatch.setattr(duty, "REST", 0)


@pytest.mark.parametrize("state", ["SUCCESS", "FAILURE", "REVOKED"])
def test_tasks_that_ended_long_ago_are_deleted_whatever_their_ids(
    database: sa.Engine, state: str
) -> None:
    insert(database, 31, 20, state)
    (ours,) = insert(database, 40, 1, state)
    execute(database, f"UPDATE tasks SET id = '{new_task_id()}' WHERE id = '{ours}'")
    young = insert(database, 29, 20, state)
    progress = delete(database)
    assert left(database) == set(young)
    assert (progress.tasks, progress.page) == (21, None)
    assert progress.oldest is not None
    assert 40 <= (datetime.now(UTC) - progress.oldest).days <= 41


@pytest.mark.parametrize("state", ["PENDING", "STARTED", "RETRY"])
def test_a_task_that_has_not_ended_stays(database: sa.Engine, state: str) -> None:
    task_id = put(database, state)
    execute(database, "UPDATE tasks SET finished_at = now() - interval '40 days'")
    assert delete(database).tasks == 0
    assert task(database, task_id)["state"] == state


def test_the_messages_of_deleted_tasks_stay(database: sa.Engine) -> None:
    (task_id,) = insert(database, 31)
    with database.begin() as connection:
        messages.insert(connection, "Hello", task_id)
    assert delete(database).tasks == 1
    with database.connect() as connection:
        found, total = messages.page(connection, 10, 2**62)
        assert ([message.content for message in found], total) == (["Hello"], 1)


@pytest.mark.parametrize(("age", "ahead"), [(29, 10), (31, -10)])
def test_a_task_is_old_only_by_both_clocks(database: sa.Engine, age: int, ahead: int) -> None:
    """This machine's clock is ten days ahead of PostgreSQL's, or ten days behind."""
    insert(database, age)
    assert delete(database, now=datetime.now(UTC) + timedelta(days=ahead)).tasks == 0


@pytest.mark.usefixtures("small_batches")
def test_each_batch_deletes_some_pages_and_the_last_one_ends_the_pass(
    database: sa.Engine,
) -> None:
    old, young = insert(database, 31, 300), insert(database, 29, 5)
    progress = delete(database)
    assert (0 < progress.tasks < len(old), progress.page) == (True, 1)
    batches = 1
    while progress.page is not None:
        progress = delete(database, progress)
        batches += 1
    assert (progress.tasks, left(database)) == (len(old), set(young))
    assert batches > 2


def test_a_batch_of_large_tasks_ends_at_its_limit_of_bytes(database: sa.Engine) -> None:
    count, size = 12, 1024 * 1024
    for _ in range(count):
        insert(database, 31, result=os.urandom(size // 2).hex())
    first = delete(database)
    assert (0 < first.tasks < count, first.page) == (True, 0)
    second = delete(database, first)
    assert (second.tasks, second.page, left(database)) == (count, None, set())


def test_a_locked_task_stays_and_does_not_delay_the_others(database: sa.Engine) -> None:
    locked, *_ = insert(database, 31, 3)
    with database.connect() as other:
        other.execute(sa.text("SELECT FROM tasks WHERE id = :id FOR UPDATE"), {"id": locked})
        assert delete(database).tasks == 2
    assert left(database) == {locked}


def test_several_purges_at_once_delete_each_task_once(
    service: sa.Engine, small_batches: None
) -> None:
    del small_batches
    young = insert(service, 29, 10)
    insert(service, 31, 2000)
    ready = threading.Barrier(4)
    counts: list[int] = []

    def run() -> None:
        ready.wait(10)
        *_, last = duty.purge_once(MONTH, threading.Event(), dry_run=False)
        counts.append(last.tasks)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(counts), sum(counts)) == (4, 2000)
    assert left(service) == set(young)


@pytest.mark.usefixtures("small_batches")
def test_only_one_process_continues_a_pass_at_a_time(database: sa.Engine) -> None:
    insert(database, 31, 300)
    with database.begin() as connection:
        first = purge.resume(connection, MONTH, datetime.now(UTC), 0)
        assert first is not None
        assert resume(database) is None, "another process deletes"
    second = resume(database)
    assert second is not None
    assert (second.page, second.tasks > first.tasks) == (2, True), "it continues the same pass"


@pytest.mark.usefixtures("small_batches")
def test_a_batch_waits_for_the_pause_and_a_pass_for_an_hour(database: sa.Engine) -> None:
    insert(database, 31, 60)
    assert resume(database, rest=1e6) is not None
    assert resume(database) is None, "the pause after a batch"
    execute(database, "UPDATE purge SET due_at = now()")
    while (progress := resume(database)) and progress.page is not None:
        pass
    assert progress is not None
    insert(database, 31)
    assert resume(database) is None, "the pause after a pass"
    execute(database, "UPDATE purge SET due_at = due_at - interval '59 min'")
    assert resume(database) is None
    execute(database, "UPDATE purge SET due_at = due_at - interval '1 min'")
    again = resume(database)
    assert again is not None
    assert again.tasks == 1, "a new pass counts from zero"


def test_a_pass_is_due_after_postgresqls_clock_was_set_back(database: sa.Engine) -> None:
    execute(database, "UPDATE purge SET due_at = now() + interval '1 day'")
    assert resume(database) is not None


def test_a_dry_run_counts_what_a_purge_then_deletes(
    service: sa.Engine, small_batches: None
) -> None:
    del small_batches
    insert(service, 31, 300)
    insert(service, 29, 5)
    before = left(service)
    stopping = threading.Event()
    *_, counted = duty.purge_once(MONTH, stopping, dry_run=True)
    assert (counted.tasks, left(service)) == (300, before)
    *_, deleted = duty.purge_once(MONTH, stopping, dry_run=False)
    assert deleted == counted
    assert len(left(service)) == 5


def test_a_purge_that_is_stopped_ends_after_its_batch(
    service: sa.Engine, small_batches: None
) -> None:
    del small_batches
    insert(service, 31, 300)
    stopping = threading.Event()
    batches = duty.purge_once(MONTH, stopping, dry_run=False)
    progress = next(batches)
    stopping.set()
    assert (progress.page, list(batches)) == (1, [])
    assert len(left(service)) == 300 - progress.tasks > 0


@pytest.mark.usefixtures("small_batches")
def test_a_pass_that_has_purged_tasks_logs_one_line(
    service: sa.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "backend.maintenance")
    insert(service, 31, 300)
    made = duty.Purge(30)
    made.continue_pass()
    assert left(service) == set()
    (line,) = caplog.messages
    assert re.fullmatch(
        r"purged 300 tasks that ended more than 30 days ago; the first of them ended at"
        r" \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ",
        line,
    )
    execute(service, "UPDATE purge SET due_at = now()")
    made.continue_pass()
    assert len(caplog.messages) == 1, "a pass that has purged nothing logs nothing"


@pytest.mark.parametrize("days", ["", "30"])
def test_the_reconciler_starts_the_purge_only_if_retention_days_is_set(
    service: sa.Engine, monkeypatch: pytest.MonkeyPatch, days: str
) -> None:
    del service
    monkeypatch.setenv("RETENTION_DAYS", days)
    settings.cache_clear()
    reconciler = Reconciler()
    reconciler.start()
    running = {thread.name for thread in threading.enumerate()}
    reconciler.close()
    assert "reconciler" in running
    assert ("purge" in running) == bool(days)


class Pauses(threading.Event):
    """Adds up the seconds to wait, and does not wait."""

    seconds = 0.0

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.seconds += timeout
        return False


def test_the_purge_pauses_much_longer_than_it_works(
    service: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purge, "BATCH_PAGES", 1)
    for by_command in (True, False):
        insert(service, 31, 900)
        # Without the pauses, no other batch is due.
        execute(service, "UPDATE purge SET due_at = now()")
        made, pauses = duty.Purge(30), Pauses()
        made._loop.stopping = pauses
        began = time.monotonic()
        if by_command:
            *_, last = duty.purge_once(MONTH, pauses, dry_run=False)
            assert last.tasks == 900
        else:
            made.continue_pass()
        assert pauses.seconds > 5 * (time.monotonic() - began)
