"""Bundles, and how much a relay takes at once."""

from __future__ import annotations

import json
import secrets
from collections import Counter
from uuid import uuid4

import pytest
import sqlalchemy as sa

from backend.broker import pack
from backend.db import ledger, lost_messages, outbox, records
from tests.support.ledger import age, publish, republish, submit


def test_bundles_and_single_messages_are_republished_by_their_own_counts(
    database: sa.Engine,
) -> None:
    alone, bundled = submit(database), submit(database, name="insert_message")
    with database.begin() as connection:
        publish(connection, 10)
        assert lost_messages.published(connection) == {"tasks": 1, "short_tasks": 1}
    for task_id in (*alone, *bundled):
        age(database, task_id, 100)
    with database.begin() as connection:
        assert republish(connection, "short_tasks", 10) == 1
        assert bundled == [due.task_id for due in publish(connection, 10)]
        assert republish(connection, "tasks", 10) == 1
        assert alone == [due.task_id for due in publish(connection, 10)]


def test_first_attempts_of_short_tasks_share_messages_and_later_ones_do_not(
    database: sa.Engine,
) -> None:
    ids = submit(database, pack.MAX_TASKS + 20, name="insert_message")
    with database.begin() as connection:
        connection.execute(
            sa.text("UPDATE outbox SET attempt = 2 WHERE task_id = :id"), {"id": ids[0]}
        )
        messages = pack.pack(publish(connection, 500), None)
        sizes = Counter((message.queue, len(message.entries)) for message in messages)
        short = {("short_tasks", pack.MAX_TASKS): 1, ("short_tasks", 19): 1}
        assert sizes == {("short_tasks", 1): 1, **short}
        assert [message.task_ids for message in messages if not message.bundle] == [[ids[0]]]
        assert lost_messages.published(connection) == {"short_tasks": 3}


def test_a_bundle_does_not_grow_far_beyond_its_bytes(database: sa.Engine) -> None:
    third = pack.MAX_BYTES // 3
    with database.begin() as connection:
        args = json.dumps({"content": "x" * third})
        new = [records.TaskRecord(str(uuid4()), "insert_message", args, 3, None) for _ in range(7)]
        ledger.submit(connection, new)
        messages = pack.pack(publish(connection, 500), None)
        assert max(len(message.entries) for message in messages) <= 4
        assert lost_messages.published(connection) == {"short_tasks": len(messages)}


def test_all_unclaimed_tasks_of_a_bundle_are_published_again(
    database: sa.Engine,
) -> None:
    ids = submit(database, 3, name="insert_message")
    with database.begin() as connection:
        publish(connection, 500)
        connection.execute(
            sa.text("UPDATE outbox SET published_at = published_at - interval '11 s'")
        )
        ledger.claim(connection, {ids[0]: 1}, "w")
        assert lost_messages.published(connection) == {"short_tasks": 1}
        assert republish(connection, "short_tasks", 1) == 2
        again = publish(connection, 500)
        assert {due.task_id for due in again} == set(ids[1:])


def test_messages_of_two_concurrent_relays_are_all_counted(
    database: sa.Engine,
) -> None:
    submit(database, 4, name="insert_message")
    with database.begin() as first, database.begin() as second:
        publish(first, 2)
        publish(second, 2)
        for connection in (first, second):
            connection.execute(
                sa.text(
                    "UPDATE outbox SET published_at = date_trunc('day', now())"
                    " WHERE xmin = CAST(CAST(pg_current_xact_id() AS text) AS xid)"
                )
            )
    with database.begin() as connection:
        assert lost_messages.published(connection) == {"short_tasks": 2}


MEGABYTE = 1024 * 1024
TEXTS = {"compressed": "x" * MEGABYTE, "plain": secrets.token_hex(MEGABYTE // 2)}


@pytest.mark.parametrize("text", TEXTS)
def test_large_tasks_are_taken_a_few_at_a_time_until_all_are_taken(
    database: sa.Engine, text: str
) -> None:
    ids = submit(database, 20, args=json.dumps({"text": TEXTS[text]}))
    takes = []
    with database.begin() as connection:
        while taken := publish(connection, 500):
            takes.append([due.task_id for due in taken])
    assert sorted(task_id for take in takes for task_id in take) == sorted(ids)
    assert 2 <= max(len(take) for take in takes) <= 6


def test_a_task_above_the_byte_limit_is_taken_alone_and_small_ones_together(
    database: sa.Engine,
) -> None:
    large = json.dumps({"text": secrets.token_hex(outbox.TAKE_BYTES)})
    first = submit(database, 2, args=large)
    small = submit(database, 100)
    takes = []
    with database.begin() as connection:
        while taken := publish(connection, 500):
            takes.append([due.task_id for due in taken])
    assert [len(take) for take in takes] == [1, 1, 100]
    assert {task_id for take in takes[:2] for task_id in take} == set(first)
    assert set(takes[2]) == set(small)
