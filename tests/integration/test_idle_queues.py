"""Queues that no worker consumes: each is logged once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.db import leases
from backend.maintenance.idle_queues import IdleQueues

if TYPE_CHECKING:
    import pytest
    import sqlalchemy as sa


def test_a_queue_without_a_worker_is_logged_once_until_it_has_had_one(
    service: sa.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    watch = IdleQueues()
    watch.idle_seconds = 0
    watch.report()
    watch.report()
    assert [record.args for record in caplog.records] == [("tasks",), ("short_tasks",)]
    with service.begin() as connection:
        leases.renew(connection, "w", list, queues=["tasks"])
    watch.report()
    with service.begin() as connection:
        leases.end(connection, "w")
    watch.report()
    assert [record.args for record in caplog.records[2:]] == [("tasks",)]


def test_a_queue_that_was_without_a_worker_for_a_moment_is_not_logged(
    service: sa.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    watch = IdleQueues()
    watch.report()
    with service.begin() as connection:
        leases.renew(connection, "w", list)
    watch.report()
    assert caplog.records == []


def test_a_worker_of_the_version_before_consumes_both_queues(service: sa.Engine) -> None:
    with service.begin() as connection:
        leases.renew(connection, "w", list, queues=["reports"])
        assert leases.consumed_queues(connection) == {"reports"}
        connection.exec_driver_sql("UPDATE workers SET queues = NULL")
        assert leases.consumed_queues(connection) == {"tasks", "short_tasks"}
