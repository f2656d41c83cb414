"""What a batch of the purge reads: its pages, once."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from backend.db import purge
from tests.integration.test_bounds import old_snapshot
from tests.support.plans import KEEP_STATISTICS, blocks, plan
from tests.support.purge import insert

if TYPE_CHECKING:
    from collections.abc import Callable

MONTH = timedelta(days=30)
MANY = 20_000


def pages_of(first: int, behind: int) -> dict[str, Any]:
    """Return the parameters of a statement that looks for tasks older than any, in some pages."""
    values = {"first": f"({first},0)", "behind": f"({behind},0)"}
    return {**values, "age": timedelta(days=60), "now": datetime.now(UTC)}


@pytest.fixture
def old_tasks(database: sa.Engine) -> Callable[[], list[int]]:
    """Give a function that counts the blocks that each batch of a pass reads or writes."""
    with database.begin() as connection:
        connection.exec_driver_sql(KEEP_STATISTICS)
    insert(database, 31, MANY)

    def pass_blocks() -> list[int]:
        found, first = [], 0
        with database.connect() as connection:
            pages = connection.execute(sa.text(f"SELECT {purge._PAGES}")).scalar_one()
            while first < pages:
                behind = first + purge.BATCH_PAGES
                found.append(blocks(connection, purge._DELETE, pages_of(first, behind)))
                first = behind
        return found

    return pass_blocks


def test_a_batch_reads_its_pages_once_if_nothing_is_old(
    old_tasks: Callable[[], list[int]],
) -> None:
    found = old_tasks()
    assert len(found) > 3
    assert max(found) < purge.BATCH_PAGES + 10, found


def test_a_pass_reads_rows_that_were_deleted_since_an_old_snapshot_once(
    database: sa.Engine, old_tasks: Callable[[], list[int]]
) -> None:
    with old_snapshot(database):
        progress = purge.Progress()
        with database.begin() as connection:
            while progress.page is not None:
                progress = purge.delete(connection, progress, MONTH, datetime.now(UTC))
        assert progress.tasks == MANY
        assert max(old_tasks()) < purge.BATCH_PAGES + 10


def test_statistics_do_not_change_how_a_batch_is_read(database: sa.Engine) -> None:
    """An index or the whole table would be read again for each batch."""
    with database.begin() as connection:
        connection.exec_driver_sql(KEEP_STATISTICS)
    insert(database, 1, MANY)
    for _ in range(2):
        with database.connect() as connection:
            used = json.loads(plan(connection, purge._DELETE, pages_of(64, 128)))
            assert "Tid Range Scan" in json.dumps(used)
            assert "Seq Scan" not in json.dumps(used)
        with database.begin() as connection:
            connection.exec_driver_sql("ANALYZE tasks")
