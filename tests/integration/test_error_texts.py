"""The texts of PostgreSQL's errors name the constraint, never a value or a query."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg2
import pytest
import sqlalchemy as sa

from backend.worker.failures import error_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Execute = Callable[[str], object]

SECRET = "hidden-value"

TABLES = """
CREATE TABLE owners (name text PRIMARY KEY);
CREATE TABLE things (
    name text NOT NULL CONSTRAINT things_once UNIQUE,
    owner text CONSTRAINT things_owner REFERENCES owners,
    size int CONSTRAINT things_size CHECK (size > 0),
    span int4range,
    CONSTRAINT things_span EXCLUDE USING gist (span WITH &&)
);
INSERT INTO things (name, span) VALUES ('hidden-value', '[1,5]')
"""


@pytest.fixture(params=["sqlalchemy", "psycopg2"])
def execute(request: pytest.FixtureRequest, database: sa.Engine) -> Iterator[Execute]:
    """Give a function that executes SQL: SQLAlchemy's, or that of the driver below it."""
    with database.begin() as connection:
        connection.exec_driver_sql(TABLES)
    with database.connect() as connection:
        raw: Any = connection.connection.dbapi_connection
        yield connection.exec_driver_sql if request.param == "sqlalchemy" else raw.cursor().execute


def text_of(execute: Execute, sql: str) -> str:
    """Execute a statement that fails; return the text of its error."""
    with pytest.raises((sa.exc.DBAPIError, psycopg2.Error)) as caught:
        execute(sql)
    return error_text(caught.value)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (f"('{SECRET}')", 'unique constraint "things_once" violated'),
        (f"('b', '{SECRET}')", 'foreign key "things_owner" violated'),
        ("('b', NULL, -12345)", 'check constraint "things_size" violated'),
        ("('b', NULL, 1, '[2,3]')", 'exclusion constraint "things_span" violated'),
        (f"(NULL, '{SECRET}')", 'column "name" must not be null'),
    ],
)
def test_a_violated_constraint_is_named(execute: Execute, values: str, text: str) -> None:
    said = text_of(execute, f"INSERT INTO things VALUES {values}")
    assert said == f"IntegrityError: {text}"


@pytest.mark.parametrize(
    "sql", [f"SELECT '{SECRET}' FROM nothing", f"SELECT CAST('{SECRET}' AS int)", f"{SECRET}"]
)
def test_other_errors_of_a_statement_are_named_by_their_type(execute: Execute, sql: str) -> None:
    said = text_of(execute, sql)
    assert said.startswith("Database error: ")
    assert said.removeprefix("Database error: ").isidentifier()
