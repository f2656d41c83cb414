"""Messages: their count, with concurrent inserts and deletes."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from backend.db import messages
from tests.support.ledger import lock_waiters
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def connections(database: sa.Engine) -> Iterator[tuple[sa.Connection, sa.Connection]]:
    """Give two connections with a lock timeout of 5 s."""
    with database.connect() as first, database.connect() as second:
        yield first, second


def counted(database: sa.Engine) -> tuple[int, int]:
    """Return the stored count and the real one."""
    with database.connect() as connection:
        there = connection.execute(sa.text("SELECT count(*) FROM messages")).scalar_one()
        return messages.count(connection), there


def test_inserted_and_deleted_messages_are_counted(database: sa.Engine) -> None:
    assert counted(database) == (0, 0)
    with database.begin() as connection:
        messages.insert_many(connection, ["a", "b", "c"])
        assert messages.count(connection) == 3
        connection.execute(sa.text("DELETE FROM messages WHERE content = 'b'"))
    assert counted(database) == (2, 2)
    with database.begin() as connection:
        connection.execute(sa.text("TRUNCATE messages"))
    assert counted(database) == (0, 0)


def test_uncommitted_messages_are_not_counted(database: sa.Engine) -> None:
    with database.connect() as connection:
        messages.insert_many(connection, ["a"])
        assert counted(database) == (0, 0)
        connection.rollback()
    assert counted(database) == (0, 0)


def test_two_concurrent_inserts_do_not_wait_for_each_other(
    connections: tuple[sa.Connection, sa.Connection], database: sa.Engine
) -> None:
    first, second = connections
    for connection in (first, second, first, second):
        messages.insert_many(connection, ["a", "b"])
    second.commit()
    assert counted(database) == (4, 4)
    first.commit()
    assert counted(database) == (8, 8)


def test_adding_up_keeps_the_total_and_waits_for_no_lock(
    connections: tuple[sa.Connection, sa.Connection], database: sa.Engine
) -> None:
    first, second = connections
    for _ in range(3):
        messages.insert_many(first, ["a"])
    first.commit()
    messages.insert_many(first, ["b"])
    for connection in (second, second, first):
        messages.add_up(connection)
        assert counted(database) == (3, 3)
    second.commit()
    first.commit()
    assert counted(database) == (4, 4)
    with database.begin() as connection:
        messages.add_up(connection)
        rows = connection.execute(sa.text("SELECT messages FROM message_counts")).scalars()
        assert rows.all() == [4]


def at_once(
    database: sa.Engine, first: Callable[[sa.Connection], object], second: sa.TextClause
) -> None:
    """Run `second` after `first` has run but before it has committed."""

    def run() -> None:
        with database.begin() as connection:
            connection.execute(second)

    thread = threading.Thread(target=run)
    with database.connect() as connection:
        first(connection)
        thread.start()
        eventually(lambda: lock_waiters(database), 4, "the second transaction waits")
        connection.commit()
    thread.join()


TRUNCATE = sa.text("TRUNCATE messages")


def test_a_truncate_during_adding_up_leaves_a_count_of_zero(database: sa.Engine) -> None:
    for _ in range(2):
        with database.begin() as connection:
            messages.insert_many(connection, ["a", "b"])
    at_once(database, messages.add_up, TRUNCATE)
    assert counted(database) == (0, 0)


def test_counts_are_correct_if_added_up_during_a_truncate(database: sa.Engine) -> None:
    with database.begin() as connection:
        messages.insert_many(connection, ["a", "b"])

    def truncate_and_insert(connection: sa.Connection) -> None:
        connection.execute(TRUNCATE)
        messages.insert_many(connection, ["c"])

    at_once(database, truncate_and_insert, messages._ADD_UP)
    assert counted(database) == (1, 1)


def test_a_message_is_deleted_once(database: sa.Engine) -> None:
    with database.begin() as connection:
        first, kept, last = messages.insert_many(connection, ["a", "b", "c"])
        ids = [last.id, first.id, last.id, last.id + 1]
        assert messages.delete_many(connection, ids) == [True, True, False, False]
    with database.connect() as connection:
        assert messages.one(connection, kept.id) == kept
    assert counted(database) == (1, 1)


def test_deletions_in_another_order_wait_without_a_lock_on_a_later_message(
    connections: tuple[sa.Connection, sa.Connection], database: sa.Engine
) -> None:
    first, second = connections
    with database.begin() as connection:
        one, two = (each.id for each in messages.insert_many(connection, ["a", "b"]))
    messages.delete_many(first, [one])
    waiting = threading.Thread(target=messages.delete_many, args=[second, [two, one]])
    waiting.start()
    eventually(lambda: lock_waiters(database) == 1, 5, "the second one waits")
    assert messages.delete_many(first, [two]) == [True]
    first.commit()
    waiting.join(5)
    assert counted(database) == (0, 0)
