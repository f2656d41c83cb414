"""Which databases DATABASE_URL may name, and the one-line errors for others."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import psycopg2
import pytest

from tests.integration.conftest import migrate
from tests.support.servers import Missing, PgBouncer
from tests.support.stack import ROOT, Stack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.servers import Postgres, RabbitMQ

MINUTE = 60.0
SEARCH_PATH = "options=-csearch_path%3Djobs"
DROPPED = (
    "PostgreSQL cannot be used with this DATABASE_URL (a connection pooler drops its options):"
)
IN_JOBS = "SELECT DISTINCT schemaname FROM pg_tables WHERE tablename IN ('tasks', 'messages')"


def execute(url: str, *statements: str) -> list[tuple[object, ...]]:
    """Execute statements one by one; return the rows of the last."""
    connection = psycopg2.connect(url.replace("+psycopg2", ""))
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []
    finally:
        connection.close()


def migrated(url: str) -> tuple[int, str]:
    """Run `tasks-api migrate` on a database; return its exit code and what it printed.

    Without the lines of the revisions that it has applied.
    """
    process = migrate(url)
    output, _ = process.communicate(timeout=100)
    rest = [line for line in output.splitlines(keepends=True) if "applied revision" not in line]
    return process.returncode, "".join(rest)


@pytest.fixture
def url(postgres: Postgres) -> str:
    """Give an empty database with a schema of the name jobs."""
    made = postgres.create_database()
    execute(made, "CREATE SCHEMA jobs")
    return made


def test_all_tables_are_in_the_search_path_of_the_address(
    url: str, rabbitmq: RabbitMQ, tmp_path: Path
) -> None:
    with Stack(f"{url}?{SEARCH_PATH}", rabbitmq.url, tmp_path) as stack:
        stack.start("api")
        stack.start("worker")
        task_id = stack.post("/tasks/", {"content": "Hello"})
        assert stack.state(task_id, wait=MINUTE)["status"] == "SUCCESS"
        assert stack.query("SELECT content FROM jobs.messages") == [("Hello",)]
        assert stack.query(IN_JOBS) == [("jobs",)]


@pytest.mark.parametrize(
    "options",
    [
        "-csearch_path%3Djobs%20-cwork_mem%3D8MB",
        "-c%20work_mem%3D8MB%20%20-c%20search_path%3Djobs",
        "--search_path%3Djobs",
        # The backslash escapes the space in the options; the quotation marks belong to SQL.
        '-csearch_path%3D"my%5C%20jobs"',
    ],
)
def test_the_address_may_have_several_and_quoted_options(url: str, options: str) -> None:
    execute(url, 'ALTER SCHEMA jobs RENAME TO "my jobs"' if "my" in options else "SELECT 1")
    assert migrated(f"{url}?options={options}") == (0, "")
    assert execute(url, IN_JOBS) == [("my jobs" if "my" in options else "jobs",)]


@pytest.mark.parametrize(
    "query",
    [
        "sslmode=disable",
        "connect_timeout=7&keepalives=0&tcp_user_timeout=9000",
        "target_session_attrs=read-write",
        "gssencmode=disable&sslmode=prefer&fallback_application_name=mine",
    ],
)
def test_other_parameters_of_the_address_are_accepted(url: str, query: str) -> None:
    assert migrated(f"{url}?{query}") == (0, "")


def test_a_host_that_answers_is_used_among_several(postgres: Postgres, url: str) -> None:
    database = url.rpartition("/")[2]
    hosts = f"host=127.0.0.1:9&host=127.0.0.1:{postgres.port}"
    assert migrated(f"postgresql+psycopg2://postgres@/{database}?{hosts}") == (0, "")


@pytest.fixture(params=[{}, {"ignore_startup_parameters": "options"}], ids=["refused", "ignored"])
def pooler(postgres: Postgres, request: pytest.FixtureRequest) -> Iterator[PgBouncer]:
    try:
        made = PgBouncer(postgres, request.param)
    except Missing as missing:
        pytest.skip(str(missing))
    with made:
        yield made


def test_options_that_a_pooler_drops_are_an_error_even_if_the_role_has_all_limits(
    pooler: PgBouncer, url: str, rabbitmq: RabbitMQ, tmp_path: Path
) -> None:
    name = url.rpartition("/")[2]
    for limit in ("statement_timeout = '10s'", "lock_timeout = '5s'", "timezone = 'UTC'"):
        execute(url, f"ALTER DATABASE {name} SET {limit}")
    execute(url, f"ALTER DATABASE {name} SET idle_in_transaction_session_timeout = '10s'")
    through = f"{pooler.through(url)}?{SEARCH_PATH}"
    code, said = migrated(through)
    assert (code, execute(url, IN_JOBS)) == (1, [])
    assert said.splitlines()[-1].startswith(f"tasks-api: {DROPPED}")
    assert "waiting for" not in said
    with Stack(f"{url}?{SEARCH_PATH}", rabbitmq.url, tmp_path) as stack:
        stack.database_url = through
        api = stack.start("api")
        with stack.client() as client:
            for _ in range(2):
                assert client.post("/tasks/", json={"content": "Hello"}).status_code == 503
        assert api.log.count(DROPPED) == 1
        assert "Traceback" not in api.log


CONNECT_TO_EACH = """
import sys
import sqlalchemy as sa
from backend.db.connection import arguments, connect

for address in sys.argv[1:]:
    url = sa.make_url(address)
    engine = sa.create_engine(url, connect_args=arguments(url, "test"))
    sa.event.listen(engine, "do_connect", connect)
    engine.connect().close()
    print("connected")
"""


def test_options_that_a_pooler_drops_are_an_error_for_later_connections_too(
    pooler: PgBouncer, url: str
) -> None:
    addresses = [f"{url}?{SEARCH_PATH}", f"{pooler.through(url)}?{SEARCH_PATH}"]
    process = subprocess.run(
        [sys.executable, "-c", CONNECT_TO_EACH, *addresses],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=MINUTE,
        check=False,
    )
    assert (process.returncode, process.stdout) == (1, "connected\n"), process.stderr
    assert "OptionsDropped" in process.stderr


def test_a_role_without_the_right_to_create_tables_is_reported_in_one_line(url: str) -> None:
    role = f"role_{url.rpartition('/')[2]}"
    execute(url, f"CREATE ROLE {role} LOGIN", "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    theirs = url.replace("postgres@", f"{role}@")
    code, said = migrated(theirs)
    assert (code, said.count("\n")) == (1, 1)
    assert "GRANT CREATE, USAGE ON SCHEMA public" in said
    # The role may not use this schema either, so PostgreSQL finds no schema.
    code, said = migrated(f"{theirs}?{SEARCH_PATH}")
    assert (code, said.count("\n")) == (1, 1)
    assert "CREATE SCHEMA jobs" in said
    execute(url, f"GRANT CREATE, USAGE ON SCHEMA jobs TO {role}")
    assert migrated(f"{theirs}?{SEARCH_PATH}") == (0, "")
    # The tables belong to another role.
    execute(url, f"CREATE ROLE other_{role} LOGIN", f"GRANT USAGE ON SCHEMA jobs TO other_{role}")
    code, said = migrated(f"{url.replace('postgres@', f'other_{role}@')}?{SEARCH_PATH}")
    assert (code, said.count("\n")) == (1, 1)
    assert "permission denied for table alembic_version" in said


MIGRATE_ANYWAY = """
from backend.db import migrate
migrate.database_fault = lambda connection: None
migrate.upgrade()
"""


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_that_is_not_utf_8_is_reported_without_showing_any_content(
    stack: Stack, postgres: Postgres, encoding: str
) -> None:
    name = f"{stack.database_url.rpartition('/')[2]}_{encoding.lower()}"
    create = f"CREATE DATABASE {name} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"
    execute(postgres.url, f"{create} TEMPLATE template0")
    stack.database_url = postgres.url.rpartition("/")[0] + f"/{name}"
    code, said = migrated(stack.database_url)
    assert (code, said.count("\n")) == (1, 1)
    assert f"has the encoding {encoding}" in said
    assert "ENCODING 'UTF8' TEMPLATE template0" in said

    # Like a database that an earlier version has migrated.
    anyway = [sys.executable, "-c", MIGRATE_ANYWAY]
    subprocess.run(anyway, cwd=ROOT, env=stack.settings(), check=True)
    api, worker = stack.start("api"), stack.start("worker")
    with stack.client() as client:
        degraded = client.get("/health/ready").json()["degraded"]
        assert any(f"the encoding {encoding}" in fault for fault in degraded)
        if encoding == "LATIN1":
            task_id = stack.post("/tasks/", {"content": "Grüße"})
            assert stack.state(task_id, wait=MINUTE)["status"] == "SUCCESS"
            assert client.get("/messages/").json()["messages"][0]["content"] == "Grüße"
        body = {"content": "secret 漢字"}
        for path, sent in (("/tasks/", body), ("/tasks/batch", [{"arguments": body}])):
            answer = client.post(path, json=sent)
            assert answer.status_code == 503
            assert "does not use UTF-8" in answer.json()["detail"]
            assert "Retry-After" not in answer.headers
        # SQL_ASCII accepts any bytes as text.
        answer = client.post("/messages/", json=body)
        assert answer.status_code == (503 if encoding == "LATIN1" else 201)
        assert stack.post("/tasks/", {"content": "Hello"})
    assert api.log.count("does not use UTF-8") == 1
    assert "secret" not in api.log + worker.log
    assert "Traceback" not in api.log + worker.log
