"""Bringing the schema up to date, once, however many processes try at the same time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy

from backend.db.session import engine, single, store_errors

if TYPE_CHECKING:
    from alembic.config import Config

_MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK = 8060  # any number that nobody else locks in this database


def config() -> Config:
    """Return Alembic's configuration; the project has no alembic.ini."""
    from alembic.config import Config  # noqa: PLC0415 - the API has no use for its 5 MiB

    made = Config()
    made.set_main_option("script_location", str(_MIGRATIONS))
    return made


def upgrade() -> None:
    """Apply the migrations that are missing. Raises StoreUnavailable."""
    from alembic import command  # noqa: PLC0415 - see config()

    with store_errors(), engine().connect() as connection:
        # Others wait here for as long as the one migrates, then find nothing to do.
        connection.execute(sqlalchemy.text("SET statement_timeout = 0; SET lock_timeout = 0"))
        connection.execute(sqlalchemy.text(f"SELECT pg_advisory_lock({_LOCK})"))
        connection.commit()
        try:
            made = config()
            made.attributes["connection"] = connection
            command.upgrade(made, "head")
            connection.commit()
        finally:
            connection.execute(sqlalchemy.text(f"SELECT pg_advisory_unlock({_LOCK})"))
            connection.commit()
            connection.invalidate()  # its timeouts are not the pool's


def current() -> bool:
    """Tell whether the database has every migration that this version knows.

    A revision that it does not know is a newer version's, which has all of ours.
    """
    known = sorted(file.name[:4] for file in _MIGRATIONS.glob("versions/[0-9]*.py"))
    with single() as connection:
        there = sqlalchemy.text("SELECT to_regclass('alembic_version') IS NOT NULL")
        if not connection.execute(there).scalar():
            return False
        heads = connection.execute(sqlalchemy.text("SELECT version_num FROM alembic_version"))
        return any(head == known[-1] or head not in known for head in heads.scalars())
