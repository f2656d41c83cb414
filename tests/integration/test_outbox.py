"""The outbox: who takes a row, and when it is published again."""

from __future__ import annotations

import json
import secrets
import select
from collections import Counter
from contextlib import closing
from typing import cast
from uuid import uuid4

import psycopg2
import pytest
import sqlalchemy as sa

from backend.db import ledger, outbox, queries, records
from tests.integration.test_ledger import put, submit


def age(database: sa.Engine, task_id: str, seconds: float, publishes: int = 1) -> None:
    """Make a row look as if it had been published so long ago, for the nth time."""
    with database.begin() as connection:
        connection.execute(
            sa.text(
                "UPDATE outbox SET publishes = :n,"
                " published_at = now() - make_interval(secs => :age) WHERE task_id = :id"
            ),
            {"id": task_id, "age": seconds, "n": publishes},
        )


def test_a_row_is_taken_once_with_all_that_a_message_needs(database: sa.Engine) -> None:
    (task_id,) = submit(database)
    with database.begin() as connection:
        taken = outbox.take(connection, 10)
        assert taken == [records.OutboxEntry(task_id, 1, "slow", '{"n": 1}', "replies")]
        assert outbox.take(connection, 10) == []
        assert outbox.published(connection) == (1, 0)


def test_two_relays_at_once_take_different_rows_and_do_not_wait(database: sa.Engine) -> None:
    ids = submit(database, 10)
    with database.begin() as first, database.begin() as second:
        of_first = {due.task_id for due in outbox.take(first, 6)}
        of_second = {due.task_id for due in outbox.take(second, 6)}
    assert (len(of_first), len(of_second)) == (6, 4)
    assert of_first | of_second == set(ids)


def test_what_a_relay_took_and_did_not_commit_is_there_for_the_next(database: sa.Engine) -> None:
    (task_id,) = submit(database)
    with database.connect() as connection:
        assert outbox.take(connection, 10)
        connection.rollback()
    with database.begin() as connection:
        assert [task_id] == [due.task_id for due in outbox.take(connection, 10)]


def test_a_row_that_is_not_due_is_left_and_the_longest_due_goes_first(
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
        assert [late, now] == [due.task_id for due in outbox.take(connection, 10)]
        connection.execute(
            sa.text("UPDATE tasks SET state = 'RETRY' WHERE id = :id"), {"id": later}
        )
        assert queries.unfinished(connection, 10)[0][later] == "SCHEDULED"


def test_what_could_not_be_published_is_due_at_once(database: sa.Engine) -> None:
    first, second = submit(database, 2)
    with database.begin() as connection:
        outbox.take(connection, 10)
        outbox.put_back(connection, [second])
        assert outbox.published(connection) == (1, 0)
        assert [second] == [due.task_id for due in outbox.take(connection, 10)]
    assert first != second


@pytest.mark.parametrize(
    ("publishes", "seconds"), [(1, 10), (2, 20), (3, 40), (4, 80), (5, 160), (6, 320), (50, 320)]
)
def test_an_unclaimed_row_is_published_again_after_twice_as_long_each_time(
    database: sa.Engine, publishes: int, seconds: float
) -> None:
    (task_id,) = submit(database)
    age(database, task_id, seconds - 1, publishes)
    with database.begin() as connection:
        assert outbox.republish(connection, 10, bundled=False) == 0
    age(database, task_id, seconds + 1, publishes)
    with database.begin() as connection:
        assert outbox.republish(connection, 10, bundled=False) == 1
        assert [task_id] == [due.task_id for due in outbox.take(connection, 10)]


def test_no_more_rows_than_are_missing_are_published_again_and_the_oldest_first(
    database: sa.Engine,
) -> None:
    ids = submit(database, 5)
    for place, task_id in enumerate(ids):
        age(database, task_id, 100 + place)
    with database.begin() as connection:
        assert outbox.republish(connection, 2, bundled=False) == 2
        assert set(ids[-2:]) == {due.task_id for due in outbox.take(connection, 10)}


def test_bundles_and_messages_of_one_task_are_published_again_each_by_their_own_number(
    database: sa.Engine,
) -> None:
    alone, bundled = submit(database), submit(database)
    with database.begin() as connection:
        connection.execute(
            sa.text("UPDATE outbox SET attempt = 2 WHERE task_id = :id"), {"id": alone[0]}
        )
        outbox.take(connection, 10, bundled=["slow"])
        assert outbox.published(connection) == (1, 1)
    for task_id in (*alone, *bundled):
        age(database, task_id, 100)
    with database.begin() as connection:
        assert outbox.republish(connection, 10, bundled=True) == 1
        assert bundled == [due.task_id for due in outbox.take(connection, 10)]
        assert outbox.republish(connection, 10, bundled=False) == 1
        assert alone == [due.task_id for due in outbox.take(connection, 10)]


def start(database: sa.Engine, task_id: str, accepted: float) -> None:
    """Start a task that looks as if it had been accepted so many seconds ago."""
    with database.begin() as connection:
        assert ledger.claim(connection, {task_id: 1}, "w").ids
        connection.execute(
            sa.text(
                "UPDATE tasks SET created_at = now() - make_interval(secs => :age) WHERE id = :id"
            ),
            {"id": task_id, "age": accepted},
        )


def test_what_a_much_newer_task_has_overtaken_is_published_again_and_a_backlog_is_not(
    database: sa.Engine,
) -> None:
    lost, recent, behind, started = submit(database, 4)
    hour, minute = 3600.0, 60.0
    for task_id, published in ((lost, 2 * hour), (recent, hour + 5 * minute), (behind, 1800.0)):
        age(database, task_id, published)
    with database.begin() as connection:
        assert outbox.republish_overtaken(connection, 10) == 0
    start(database, started, hour)
    with database.begin() as connection:
        assert outbox.republish_overtaken(connection, 10) == 1
        assert [lost] == [due.task_id for due in outbox.take(connection, 10)]
        assert outbox.republish_overtaken(connection, 10) == 0
        assert outbox.published(connection) == (3, 0)


def test_a_task_of_another_program_does_not_show_that_others_were_overtaken(
    database: sa.Engine,
) -> None:
    (waiting,) = submit(database)
    age(database, waiting, 7200)
    with database.begin() as connection:
        sent = records.NewTask(str(uuid4()), "slow", "{}", 3, None)
        ledger.submit(connection, [sent])
        assert ledger.claim(connection, {sent.id: 1}, "w").ids
        assert outbox.republish_overtaken(connection, 10) == 0


def test_a_claimed_task_is_never_published_again(database: sa.Engine) -> None:
    task_id = put(database, "PENDING")
    age(database, task_id, 1000)
    with database.begin() as connection:
        ledger.claim(connection, {task_id: 1}, "w")
        assert outbox.republish(connection, 10, bundled=False) == 0
        assert outbox.take(connection, 10) == []
        assert outbox.published(connection) == (0, 0)


def test_the_backlog_is_that_of_our_table_whatever_other_schemas_hold(
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
        outbox.take(connection, 1)
        assert outbox.backlog(connection, 100)[0] == 2


def test_the_bell_rings_with_the_commit_and_not_before(database: sa.Engine) -> None:
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


def test_first_attempts_of_bundled_tasks_share_messages_and_others_have_their_own(
    database: sa.Engine,
) -> None:
    ids = submit(database, outbox.BUNDLE + 20)
    with database.begin() as connection:
        connection.execute(
            sa.text("UPDATE outbox SET attempt = 2 WHERE task_id = :id"), {"id": ids[0]}
        )
        taken = outbox.take(connection, 500, bundled=["slow"])
        sizes = Counter(due.bundle for due in taken)
        assert sizes == {None: 1, 0: outbox.BUNDLE, 1: 19}
        assert [due.attempt for due in taken if due.bundle is None] == [2]
        assert outbox.published(connection) == (1, 2)


def test_a_bundle_does_not_grow_far_beyond_its_bytes(database: sa.Engine) -> None:
    third = outbox.BUNDLE_BYTES // 3
    with database.begin() as connection:
        args = json.dumps({"content": "x" * third})
        new = [records.NewTask(str(uuid4()), "long", args, 3, None) for _ in range(7)]
        ledger.submit(connection, new)
        taken = outbox.take(connection, 500, bundled=["long"])
        assert max(Counter(due.bundle for due in taken).values()) <= 4
        assert outbox.published(connection) == (0, len({due.bundle for due in taken}))


def test_of_what_shared_a_message_all_that_is_unclaimed_is_published_again(
    database: sa.Engine,
) -> None:
    ids = submit(database, 3)
    with database.begin() as connection:
        outbox.take(connection, 500, bundled=["slow"])
        connection.execute(
            sa.text("UPDATE outbox SET published_at = published_at - interval '11 s'")
        )
        ledger.claim(connection, {ids[0]: 1}, "w")
        assert outbox.published(connection) == (0, 1)
        assert outbox.republish(connection, 1, bundled=True) == 2
        again = outbox.take(connection, 500, bundled=["slow"])
        assert {due.task_id for due in again} == set(ids[1:])


def test_messages_of_two_relays_that_took_at_the_same_time_are_all_counted(
    database: sa.Engine,
) -> None:
    submit(database, 4)
    with database.begin() as first, database.begin() as second:
        outbox.take(first, 2, bundled=["slow"])
        outbox.take(second, 2, bundled=["slow"])
        for connection in (first, second):
            connection.execute(
                sa.text(
                    "UPDATE outbox SET published_at = date_trunc('day', now())"
                    " WHERE xmin = CAST(CAST(pg_current_xact_id() AS text) AS xid)"
                )
            )
    with database.begin() as connection:
        assert outbox.published(connection) == (0, 2)


def test_rows_whose_tasks_somebody_deleted_hold_up_no_others(database: sa.Engine) -> None:
    ids = submit(database, 3)
    with database.begin() as connection:
        connection.execute(sa.text("UPDATE outbox SET due_at = due_at - interval '1 h'"))
        connection.execute(sa.text("DELETE FROM tasks"))
        submit_in = [records.NewTask(str(uuid4()), "slow", "{}", 3, None)]
        ledger.submit(connection, submit_in)
        taken = [*outbox.take(connection, 3), *outbox.take(connection, 3)]
        assert [due.task_id for due in taken] == [submit_in[0].id]
        assert submit_in[0].id not in ids


MEGABYTE = 1024 * 1024
TEXTS = {"compressed": "x" * MEGABYTE, "plain": secrets.token_hex(MEGABYTE // 2)}


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("bundled", [(), ("slow",)])
def test_large_tasks_are_taken_a_few_at_a_time_until_all_are_taken(
    database: sa.Engine, text: str, bundled: tuple[str, ...]
) -> None:
    ids = submit(database, 20, args=json.dumps({"text": TEXTS[text]}))
    takes = []
    with database.begin() as connection:
        while taken := outbox.take(connection, 500, bundled):
            takes.append([due.task_id for due in taken])
    assert sorted(task_id for take in takes for task_id in take) == sorted(ids)
    assert 2 <= max(len(take) for take in takes) <= 6


def test_a_task_larger_than_the_limit_is_taken_alone_and_small_ones_all_at_once(
    database: sa.Engine,
) -> None:
    large = json.dumps({"text": secrets.token_hex(outbox.TAKE_BYTES)})
    first = submit(database, 2, args=large)
    small = submit(database, 100)
    takes = []
    with database.begin() as connection:
        while taken := outbox.take(connection, 500):
            takes.append([due.task_id for due in taken])
    assert [len(take) for take in takes] == [1, 1, 100]
    assert {task_id for take in takes[:2] for task_id in take} == set(first)
    assert set(takes[2]) == set(small)
