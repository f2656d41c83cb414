"""Migrations: applied once by concurrent processes, and equal to the models."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from tests.integration.conftest import migrate
from tests.support.stack import ROOT

VERSIONS = ROOT / "backend" / "db" / "migrations" / "versions"

if TYPE_CHECKING:
    from tests.support.servers import Postgres


def test_ten_concurrent_migrations_apply_each_revision_once(postgres: Postgres) -> None:
    url = postgres.create_database()
    processes = [migrate(url) for _ in range(10)]
    outputs = [process.communicate(timeout=100)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 10, outputs
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        versions = connection.execute(sa.text("SELECT version_num FROM alembic_version"))
        assert len(versions.all()) == 1
        tables = {"tasks", "outbox", "messages", "workers", "alembic_version"}
        assert tables <= set(sa.inspect(connection).get_table_names())


def test_migrate_prints_a_line_for_each_revision_or_that_there_is_none(
    postgres: Postgres,
) -> None:
    url = postgres.create_database()

    def lines() -> list[str]:
        output, _ = migrate(url).communicate(timeout=60)
        return [json.loads(line)["event"] for line in output.splitlines()]

    applied = lines()
    names = sorted(path.name for path in VERSIONS.glob("[0-9]*.py"))
    assert [line.partition(": ")[0] for line in applied] == [
        f"applied revision {name[:4]}" for name in names
    ]
    assert applied[0] == "applied revision 0001: The first schema"
    assert lines() == [f"the schema is up to date: revision {names[-1][:4]}"]


def test_every_column_has_a_comment(database: sa.Engine) -> None:
    inspector = sa.inspect(database)
    without = [
        f"{table}.{column['name']}"
        for table in inspector.get_table_names()
        if table != "alembic_version"
        for column in inspector.get_columns(table)
        if not column["comment"]
    ]
    assert not without


def test_a_task_writes_one_message(database: sa.Engine) -> None:
    insert = sa.text(
        "INSERT INTO messages (task_id, content)"
        " VALUES ('019a3f0e-7c1a-7d7e-9a53-0d8f2c7b1f55', 'x')"
    )
    with database.begin() as connection:
        connection.execute(insert)
    with pytest.raises(sa.exc.IntegrityError, match="task_id"), database.begin() as connection:
        connection.execute(insert)
