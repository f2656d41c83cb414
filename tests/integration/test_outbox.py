"""The outbox: how rows are taken, and when they are published again."""

from __future__ import annotations

import select
from contextlib import closing
from typing import cast
from uuid import uuid4

import psycopg2
import pytest
import sqlalchemy as sa

from backend.db import ledger, locked, lost_messages, outbox, queries, records
from tests.support.ledger import age, publish, put, republish, submit


def test_a_row_is_taken_once_with_all_fields_of_a_message(database: sa.Engine) -> None:
    (task_id,) = submit(database)
    with database.begin() as connection:
        taken = publish(connection, 10)
        assert taken == [records.OutboxEntry(task_id, 1, "slow", '{"n": 1}', "replies")]
        assert publish(connection, 10) == []
        assert lost_messages.published(connection) == {"tasks": 1}


def test_two_relays_at_once_take_different_rows_and_do_not_wait(database: sa.Engine) -> None:
    ids = submit(database, 10)
    with database.begin() as first, database.begin() as second:
        of_first = {due.task_id for due in publish(first, 6)}
        of_second = {due.task_id for due in publish(second, 6)}
    assert (len(of_first), len(of_second)) == (6, 4)
    assert of_first | of_second == set(ids)


def test_rows_that_a_relay_took_without_commit_are_left_for_the_next(database: sa.Engine) -> None:
    (task_id,) = submit(database)
    with database.connect() as connection:
        assert outbox.take(connection, 10)
        connection.rollback()
    with database.begin() as connection:
        assert [task_id] == [due.task_id for due in publish(connection, 10)]


def test_only_due_rows_are_taken_and_the_longest_due_first(
    database: sa.Engine,
) -> None:
    now, late, later = submit(database, 3)
    with database.begin() as connection:
        for task_id, due in ((now, "-1 s"), (late, "-1 h"), (later, "1 h")):
            connection.execute(
                sa.text(
                    "UPDATE outbox SET due_at = now() + CAST(:due AS interval) WHERE task_id = :id"
                ),
                {"id": task_id, "due": due},
            )
        assert [late, now] == [due.task_id for due in publish(connection, 10)]
        connection.execute(
            sa.text("UPDATE tasks SET state = 'RETRY' WHERE id = :id"), {"id": later}
        )
        assert queries.unfinished(connection, 10)[0][later] == "SCHEDULED"


def test_rows_that_could_not_be_published_are_due_at_once(database: sa.Engine) -> None:
    first, second = submit(database, 2)
    with database.begin() as connection:
        publish(connection, 10)
        outbox.put_back(connection, [second])
        assert lost_messages.published(connection) == {"tasks": 1}
        assert [second] == [due.task_id for due in publish(connection, 10)]
    assert first != second


@pytest.mark.parametrize(
    ("publishes", "seconds"), [(1, 10), (2, 20), (3, 40), (4, 80), (5, 160), (6, 320), (50, 320)]
)
def test_the_delay_before_republishing_an_unclaimed_row_doubles(
    database: sa.Engine, publishes: int, seconds: float
) -> None:
    (task_id,) = submit(database)
    age(database, task_id, seconds - 1, publishes)
    with database.begin() as connection:
        assert republish(connection, "tasks", 10) == 0
    age(database, task_id, seconds + 1, publishes)
    with database.begin() as connection:
        assert republish(connection, "tasks", 10) == 1
        assert [task_id] == [due.task_id for due in publish(connection, 10)]


def test_a_lone_short_task_that_runs_long_is_not_published_again(database: sa.Engine) -> None:
    (task_id,) = submit(database)
    age(database, task_id, 1_000)
    with database.begin() as running, database.begin() as other:
        assert locked.hold(running, {task_id: 1}, "w").ids == {task_id}
        assert republish(other, "tasks", 10) == 0
    with database.begin() as connection:
        assert republish(connection, "tasks", 10) == 1


def test_only_as_many_rows_as_are_missing_are_republished_oldest_first(
    database: sa.Engine,
) -> None:
    ids = submit(database, 5)
    for place, task_id in enumerate(ids):
        age(database, task_id, 100 + place)
    with database.begin() as connection:
        assert republish(connection, "tasks", 2) == 2
        assert set(ids[-2:]) == {due.task_id for due in publish(connection, 10)}


def start(database: sa.Engine, task_id: str, accepted: float) -> None:
    """Start a task that looks as if it had been accepted `seconds` ago."""
    with database.begin() as connection:
        assert ledger.claim(connection, {task_id: 1}, "w").ids
        connection.execute(
            sa.text(
                "UPDATE tasks SET created_at = now() - make_interval(secs => :age) WHERE id = :id"
            ),
            {"id": task_id, "age": accepted},
        )


def test_a_task_overtaken_by_a_much_newer_one_is_republished_but_a_backlog_is_not(
    database: sa.Engine,
) -> None:
    lost, recent, behind, started = submit(database, 4)
    hour, minute = 3600.0, 60.0
    for task_id, published in ((lost, 2 * hour), (recent, hour + 5 * minute), (behind, 1800.0)):
        age(database, task_id, published)
    with database.begin() as connection:
        assert lost_messages.republish_overtaken(connection, "tasks", ["slow"], 10) == 0
    start(database, started, hour)
    with database.begin() as connection:
        assert lost_messages.republish_overtaken(connection, "tasks", ["slow"], 10) == 1
        assert [lost] == [due.task_id for due in publish(connection, 10)]
        assert lost_messages.republish_overtaken(connection, "tasks", ["slow"], 10) == 0
        assert lost_messages.published(connection) == {"tasks": 3}


def test_an_external_task_is_no_sign_that_others_were_overtaken(
    database: sa.Engine,
) -> None:
    (waiting,) = submit(database)
    age(database, waiting, 7200)
    with database.begin() as connection:
        sent = records.TaskRecord(str(uuid4()), "slow", "{}", 3, None)
        ledger.submit(connection, [sent])
        assert ledger.claim(connection, {sent.id: 1}, "w").ids
        assert lost_messages.republish_overtaken(connection, "tasks", ["slow"], 10) == 0


def test_a_claimed_task_is_never_published_again(database: sa.Engine) -> None:
    task_id = put(database, "PENDING")
    age(database, task_id, 1000)
    with database.begin() as connection:
        ledger.claim(connection, {task_id: 1}, "w")
        assert republish(connection, "tasks", 10) == 0
        assert publish(connection, 10) == []
        assert lost_messages.published(connection) == {}


def test_the_backlog_ignores_tables_in_other_schemas(
    database: sa.Engine,
) -> None:
    submit(database, 3)
    with database.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA other")
        connection.exec_driver_sql("CREATE TABLE other.outbox (id int)")
        assert outbox.backlog(connection, 2) == (2, 0)


def test_tasks_that_are_not_due_do_not_count_for_the_backlog(database: sa.Engine) -> None:
    ids = submit(database, 5)
    with database.begin() as connection:
        connection.execute(
            sa.text(
                "UPDATE outbox SET due_at = now() + interval '1 min'"
                " WHERE task_id = ANY(CAST(:ids AS uuid[]))"
            ),
            {"ids": ids[:3]},
        )
        publish(connection, 1)
        assert outbox.backlog(connection, 100)[0] == 2


def test_relays_are_notified_at_the_commit_and_not_before(database: sa.Engine) -> None:
    url = database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with closing(psycopg2.connect(url)) as listener:
        listener.autocommit = True
        with listener.cursor() as cursor:
            cursor.execute("LISTEN outbox")
        with database.connect() as connection:
            outbox.notify_relays(connection)
            assert select.select([listener], [], [], 0.1)[0] == []
            connection.commit()
        assert select.select([listener], [], [], 10)[0] == [listener]
        listener.poll()
        assert [cast("str", heard.channel) for heard in listener.notifies] == ["outbox"]


def test_rows_of_deleted_tasks_do_not_delay_others(database: sa.Engine) -> None:
    ids = submit(database, 3)
    with database.begin() as connection:
        connection.execute(sa.text("UPDATE outbox SET due_at = due_at - interval '1 h'"))
        connection.execute(sa.text("DELETE FROM tasks"))
        submit_in = [records.TaskRecord(str(uuid4()), "slow", "{}", 3, None)]
        ledger.submit(connection, submit_in)
        taken = [*publish(connection, 3), *publish(connection, 3)]
        assert [due.task_id for due in taken] == [submit_in[0].id]
        assert submit_in[0].id not in ids
