"""Migrations that build an index CONCURRENTLY: concurrent ones, and a killed one."""

from __future__ import annotations

import os
import shutil
import textwrap
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from tests.integration.conftest import migrate
from tests.support import documents
from tests.support.servers import Missing, PgBouncer
from tests.support.stack import ROOT
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.servers import Postgres

INDEX = "tasks_by_note"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Give a copy of the project with one more migration, written as in CONTRIBUTING."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "backend", tmp_path / "backend", ignore=ignored)
    versions = tmp_path / "backend" / "db" / "migrations" / "versions"
    last = max(file.name[:4] for file in versions.glob("[0-9]*.py"))
    (recipe,) = (block for block in documents.blocks("python") if "CONCURRENTLY" in block.text)
    column = 'op.execute("ALTER TABLE tasks ADD COLUMN IF NOT EXISTS note text")\n'
    (versions / "9000_an_index.py").write_text(
        f"from alembic import op\nrevision = '9000'\ndown_revision = '{last}'\n"
        f"def upgrade():\n{textwrap.indent(column + recipe.text, '    ')}\n"
    )
    return tmp_path


class Database:
    """A database that the test observes over its own connection."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)

    def value(self, sql: str) -> Any:  # noqa: ANN401 - any value of a query
        with self._engine.connect() as connection:
            return connection.exec_driver_sql(sql).scalar()

    def index_is_valid(self) -> bool | None:
        """Return None where there is no index."""
        found: bool | None = self.value(
            f"SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('{INDEX}')"
        )
        return found

    def building_for(self, seconds: float) -> int | None:
        """Return the process id of the server process that has built the index for `seconds`."""
        found: int | None = self.value(
            "SELECT pid FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX CONCURRENTLY%%'"
            " AND state = 'active' AND datname = current_database()"
            f" AND query_start < now() - interval '{seconds} s'"
        )
        return found

    def advisory_locks(self, condition: str) -> int:
        """Return how many advisory locks of this database a condition holds for."""
        found: int = self.value(
            "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database"
            f" WHERE locktype = 'advisory' AND datname = current_database() AND {condition}"
        )
        return found

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Hold a snapshot, which the last step of building an index concurrently waits for."""
        with self._engine.connect() as connection:
            connection.exec_driver_sql("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
            yield
            connection.exec_driver_sql("COMMIT")


@pytest.fixture
def empty(postgres: Postgres) -> Database:
    """Give a database without tables."""
    return Database(postgres.create_database())


def test_no_process_waits_inside_a_statement_while_another_builds_an_index(
    project: Path, empty: Database
) -> None:
    with empty.snapshot():
        first = migrate(empty.url, project)
        eventually(lambda: empty.building_for(0), 60, "the first process builds the index")
        second = migrate(empty.url, project)
        assert second.stdout is not None
        assert "another process migrates" in second.stdout.readline()
        assert empty.advisory_locks("NOT granted") == 0
    for process in (first, second):
        output, _ = process.communicate(timeout=100)
        assert process.returncode == 0, output
    assert empty.index_is_valid()


def test_migrations_work_through_a_pooler_with_any_limits_of_the_role(
    postgres: Postgres, project: Path, empty: Database
) -> None:
    (version,) = project.glob("backend/db/migrations/versions/9000_*.py")
    slow = "    op.execute('SELECT pg_sleep(2.5)')\n"
    version.write_text(version.read_text().replace("def upgrade():\n", f"def upgrade():\n{slow}"))
    name = empty.url.rpartition("/")[2]
    empty.value(
        f"ALTER ROLE postgres IN DATABASE {name} SET statement_timeout = '2s';"
        f"ALTER ROLE postgres IN DATABASE {name} SET idle_in_transaction_session_timeout = '2s';"
        "SELECT 1"
    )
    with _pooler(postgres) as pooler:
        processes = [migrate(pooler.through(empty.url), project) for _ in range(2)]
        outputs = [process.communicate(timeout=100)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 2, outputs
    assert empty.index_is_valid()


def _pooler(postgres: Postgres) -> PgBouncer:
    try:
        return PgBouncer(postgres)
    except Missing as missing:
        if os.environ.get("TESTS_REQUIRE_SERVERS"):
            raise
        pytest.skip(str(missing))


def test_a_migration_may_exceed_the_limits_and_is_repeated_after_a_kill(
    project: Path, empty: Database
) -> None:
    with migrate(empty.url) as first:
        first.communicate(timeout=100)
    with empty.snapshot():
        with migrate(empty.url, project) as killed:
            # Longer than the statement timeout and the idle timeout.
            server = eventually(
                lambda: empty.building_for(10.5), 60, "the index build takes more than 10 s"
            )
            assert empty.advisory_locks("granted") == 1
            killed.kill()
        assert empty.index_is_valid() is False, "the invalid index is still there"
        again = migrate(empty.url, project)
        alive = f"SELECT count(*) FROM pg_stat_activity WHERE pid = {server}"
        eventually(
            lambda: empty.value(alive) == 0, 60, "the statement of the killed migration has ended"
        )
    with again:
        output, _ = again.communicate(timeout=100)
    assert again.returncode == 0, output
    assert empty.index_is_valid()
