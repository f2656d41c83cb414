"""tasks_submit and `backend.submit`: a task exists if the caller's transaction commits."""

from __future__ import annotations

import select
import time
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import psycopg2
import pytest
import sqlalchemy as sa
from pydantic import BaseModel, Field, SecretStr
from sqlalchemy.orm import Session

from backend.api.limits import MAX_BODY
from backend.submit import MAX_ARGUMENTS, submit
from tests.integration.conftest import migrate
from tests.support.bounds import advance, below, minutes, take
from tests.support.ledger import box, task

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.servers import Postgres


class Mail(BaseModel):
    """Arguments with an alias and a default."""

    to: str = Field(alias="recipient")
    copies: int = 1


def ids(database: sa.Engine) -> list[str]:
    """Return the ids of all tasks; each has its outbox row."""
    with database.begin() as connection:
        found = connection.exec_driver_sql("SELECT CAST(id AS text) FROM tasks ORDER BY id")
        there = list(found.scalars())
    assert box(database) == [(each, 1) for each in there]
    return there


@pytest.fixture(params=["psycopg2", "psycopg"])
def application(request: pytest.FixtureRequest, database: sa.Engine) -> Iterator[sa.Engine]:
    """Give an application's own engine on the database, with another driver than ours too."""
    made = sa.create_engine(database.url.set(drivername=f"postgresql+{request.param}"))
    yield made
    made.dispose()


def test_a_task_exists_after_the_commit_of_the_callers_transaction_only(
    database: sa.Engine, application: sa.Engine
) -> None:
    with Session(application) as session:
        task_id = submit(session, "send_mail", {"to": "a\u0000ü"})
        assert ids(database) == []
        session.commit()
    row = task(database, task_id)
    assert ids(database) == [task_id]
    assert (row["name"], row["args"], row["state"]) == ("send_mail", {"to": "a\u0000ü"}, "PENDING")
    assert (row["reply_to"], row["worker"]) == (None, None)
    with database.begin() as connection:
        assert take(connection) == [task_id]


def test_a_rollback_leaves_no_task(database: sa.Engine, application: sa.Engine) -> None:
    with Session(application) as session:
        submit(session, "send_mail", {})
        session.rollback()
        with session.begin_nested() as savepoint:
            submit(session, "send_mail", {})
            savepoint.rollback()
        kept = submit(session, "send_mail", {})
        session.commit()
    assert ids(database) == [kept]


def test_a_model_is_stored_as_clients_post_it(database: sa.Engine) -> None:
    with database.begin() as connection:
        task_id = submit(connection, "send_mail", Mail(recipient="a@b"))
    assert task(database, task_id)["args"] == {"recipient": "a@b", "copies": 1}


class Login(BaseModel):
    """Arguments that JSON does not keep."""

    password: SecretStr = SecretStr("")
    number: float | None = None
    text: str = Field("", exclude=True)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (Login(password=SecretStr("x")), "Login: a worker would read other arguments"),
        (Login(number=float("nan")), "Login: a worker would read other arguments"),
        (Login(text="x"), "Login: a worker would read other arguments"),
        ({"number": float("inf")}, "Out of range float values are not JSON compliant"),
        ({"text": "ü" * (MAX_ARGUMENTS // 2)}, "over 1 MiB"),
    ],
)
def test_arguments_that_a_worker_would_not_get_are_refused_and_the_transaction_goes_on(
    database: sa.Engine, arguments: BaseModel | dict[str, object], says: str
) -> None:
    with database.begin() as connection:
        with pytest.raises(ValueError, match=says):
            submit(connection, "send_mail", arguments)
        kept = submit(connection, "send_mail", {})
    assert ids(database) == [kept]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ("(NULL, '{}')", "a name of a task has up to 100 lower case letters"),
        ("('Send mail', '{}')", "got 'Send mail'"),
        ("('send_mail\n', '{}')", "a name of a task"),
        (f"('{'a' * 101}', '{{}}')", "a name of a task"),
        ("('send_mail', NULL)", "the arguments of a task are JSON such as {}; got NULL"),
        ("('send_mail', '{')", "invalid input syntax for type json"),
        (f"('send_mail', to_json(repeat('x', {MAX_BODY - 1})))", "over 1 MiB"),
        ("('send_mail', '{}', 'x')", "invalid input syntax for type uuid"),
    ],
)
def test_sql_with_bad_input_gets_a_clear_error_and_stores_nothing(
    database: sa.Engine, call: str, says: str
) -> None:
    with pytest.raises(sa.exc.DataError) as raised, database.begin() as connection:
        connection.execute(sa.text(f"SELECT tasks_submit{call}"))
    assert says in str(raised.value.orig)
    assert ids(database) == []


def test_sql_takes_as_many_bytes_of_arguments_as_the_api(database: sa.Engine) -> None:
    assert MAX_ARGUMENTS == MAX_BODY
    with database.begin() as connection:
        connection.exec_driver_sql(
            f"SELECT tasks_submit('send_mail', to_json(repeat('x', {MAX_BODY - 2})))"
        )
    assert len(ids(database)) == 1


def test_an_id_is_a_uuid_of_version_7_with_the_time_of_the_call(database: sa.Engine) -> None:
    made = []
    for _ in range(3):
        before = time.time_ns() // 1_000_000
        with database.begin() as connection:
            made.append(submit(connection, "send_mail", {}))
        last = UUID(made[-1])
        assert (last.version, last.variant) == (7, "specified in RFC 4122")
        assert before <= last.int >> 80 <= time.time_ns() // 1_000_000
    assert len(set(made)) == 3


def test_sql_takes_an_id_once(database: sa.Engine) -> None:
    given = str(uuid4())
    call = sa.text("SELECT CAST(tasks_submit('send_mail', '{}', id => :id) AS text)")
    with database.begin() as connection:
        assert connection.execute(call, {"id": given}).scalar() == given
    with pytest.raises(sa.exc.IntegrityError), database.begin() as connection:
        connection.execute(call, {"id": given})
    assert ids(database) == [given]


def test_the_commit_wakes_the_relays(database: sa.Engine) -> None:
    listener = psycopg2.connect(database.url.set(drivername="postgresql").render_as_string())
    listener.autocommit = True
    listener.cursor().execute("LISTEN outbox")
    with database.begin() as connection:
        submit(connection, "send_mail", {})
    assert select.select([listener], [], [], 5)[0]
    listener.poll()
    assert [notified.channel for notified in listener.notifies] == ["outbox"]
    listener.close()


def test_a_role_needs_only_the_rights_that_tasks_md_names_and_no_search_path(
    postgres: Postgres,
) -> None:
    """The application has a table of the same name; ours are in the schema `jobs`."""
    url = postgres.create_database()
    admin, role = sa.create_engine(url), f"shop_{uuid4().hex}"
    with admin.begin() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA jobs; CREATE ROLE {role}")
    migrated = migrate(f"{url}?options=-csearch_path%3Djobs")
    output, _ = migrated.communicate(timeout=60)
    assert migrated.returncode == 0, output

    def may(sql: str) -> bool:
        try:
            with admin.begin() as connection:
                connection.exec_driver_sql(f"SET LOCAL ROLE {role}; {sql}")
        except sa.exc.ProgrammingError as error:
            return "permission denied" not in str(error)
        return True

    call = "CREATE TEMP TABLE tasks (id int); SELECT jobs.tasks_submit('send_mail', '{}')"
    for right in ("USAGE ON SCHEMA jobs", "INSERT ON jobs.tasks, jobs.outbox"):
        assert not may(call)
        with admin.begin() as connection:
            connection.exec_driver_sql(f"GRANT {right} TO {role}")
    assert may(call)
    assert not may("SELECT id FROM jobs.tasks")
    with admin.begin() as connection:
        stored = "SELECT count(*) FROM jobs.tasks JOIN jobs.outbox ON task_id = id"
        assert connection.exec_driver_sql(stored).scalar() == 1
        connection.exec_driver_sql(f"DROP OWNED BY {role}; DROP ROLE {role}")
    admin.dispose()


@pytest.fixture
def with_clock(postgres_with_clock: Postgres) -> Iterator[sa.Engine]:
    """Give an engine on a migrated database of a PostgreSQL whose clock can be set."""
    url = postgres_with_clock.create_database()
    output, _ = migrate(url).communicate(timeout=60)
    assert "applied revision 0013" in output
    made = sa.create_engine(url)
    yield made
    made.dispose()


@pytest.mark.parametrize("when", ["at its begin", "at its end"])
def test_a_task_of_a_long_transaction_is_taken_at_once_after_its_commit(
    postgres_with_clock: Postgres, with_clock: sa.Engine, when: str
) -> None:
    with with_clock.connect() as late:
        late.exec_driver_sql("SELECT 1")
        task_id = submit(late, "send_mail", {}) if when == "at its begin" else ""
        postgres_with_clock.step_clock(600)
        with with_clock.begin() as connection:
            advance(connection)
        task_id = task_id or submit(late, "send_mail", {})
        late.commit()
    with with_clock.begin() as connection:
        assert below(connection) == 0
        assert take(connection) == [task_id]


def test_bounds_rise_again_after_a_long_transaction(
    postgres_with_clock: Postgres, with_clock: sa.Engine
) -> None:
    with with_clock.connect() as late:
        submit(late, "send_mail", {})
        postgres_with_clock.step_clock(600)
        with with_clock.begin() as connection:
            advance(connection)
        assert minutes(with_clock)["due_from"] in {11, 12}
        late.rollback()
    with with_clock.begin() as connection:
        advance(connection)
    assert minutes(with_clock)["due_from"] == 1
