"""Bringing the schema up to date, once, however many processes try at the same time."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from backend.db.session import engine, store_errors

_LOCK = 8060  # any number that nobody else locks in this database


def config() -> Config:
    """Return Alembic's configuration; the project has no alembic.ini."""
    made = Config()
    made.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return made


def upgrade() -> None:
    """Apply the migrations that are missing. Raises StoreUnavailable."""
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
    script = ScriptDirectory.from_config(config())
    known = {revision.revision for revision in script.walk_revisions()}
    with store_errors(), engine().connect() as connection:
        found = MigrationContext.configure(connection).get_current_heads()
    return any(head == script.get_current_head() or head not in known for head in found)
