"""PostgreSQL's clock is set back: waiting rows move with it, once, and bundles stay together."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import sqlalchemy as sa

from backend.db import clock, locked, outbox
from tests.support.ledger import publish, put, republish, submit

if TYPE_CHECKING:
    from datetime import timedelta


def set_back(database: sa.Engine, seconds: float) -> None:
    """Make the clock look as if it had been set back by `seconds`."""
    with database.begin() as connection:
        connection.execute(
            sa.text("UPDATE clock SET latest = clock_timestamp() + make_interval(secs => :s)"),
            {"s": seconds},
        )


def due_in(database: sa.Engine) -> list[float]:
    """Return in how many seconds each waiting row is due, rounded."""
    with database.begin() as connection:
        rows = connection.execute(
            sa.text("SELECT round(extract(epoch FROM due_at - now())) FROM outbox ORDER BY task_id")
        )
        return [float(row) for row in rows.scalars()]


def follow(database: sa.Engine) -> timedelta | None:
    with database.begin() as connection:
        return clock.follow(connection)


def test_the_clock_is_treated_as_set_back_from_five_seconds_on(
    database: sa.Engine,
) -> None:
    for seconds, back in ((-3600, False), (0, False), (4, False), (6, True), (3600, True)):
        set_back(database, seconds)
        with database.connect() as connection:
            assert clock.read(connection).set_back is back
            connection.commit()


def test_setting_the_clock_back_does_not_delay_a_retry(
    database: sa.Engine,
) -> None:
    task_id = put(database, "STARTED")
    with database.begin() as connection:
        assert clock.read(connection).set_back is False
        locked.fail(connection, task_id, 1, "no", "w", delay=62)
    set_back(database, 60)
    by = follow(database)
    assert by is not None
    assert 59 < by.total_seconds() <= 60
    assert due_in(database) == [2]
    assert follow(database) is None
    assert due_in(database) == [2]


def test_after_a_clock_step_messages_are_republished_on_time_and_bundles_stay_together(
    database: sa.Engine,
) -> None:
    short, other = submit(database, 2, name="insert_message"), submit(database)
    with database.begin() as connection:
        publish(connection, 3)
        # Published more than ten seconds ago, by a clock that was an hour ahead.
        connection.execute(
            sa.text(
                "UPDATE outbox SET published_at = published_at + interval '3588 s',"
                " due_at = due_at + interval '3588 s'"
            )
        )
        assert republish(connection, "short_tasks", 10) == 0
    set_back(database, 3600)
    assert follow(database) is not None
    with database.begin() as connection:
        shared = sa.text("SELECT count(DISTINCT published_at), count(*) FROM outbox")
        assert connection.execute(shared).one() == (2, 3)
        assert republish(connection, "short_tasks", 10) == 2
        assert republish(connection, "tasks", 10) == 1
        assert {due.task_id for due in publish(connection, 10)} == {*short, *other}


def test_a_row_locked_during_a_clock_step_is_due_at_once_when_put_back(
    database: sa.Engine,
) -> None:
    (task_id,) = submit(database)
    with database.begin() as connection:
        publish(connection, 1)
        connection.execute(sa.text("UPDATE outbox SET due_at = due_at + interval '60 s'"))
    set_back(database, 60)
    with database.begin() as relay:
        relay.execute(sa.text("SELECT FROM outbox FOR UPDATE"))
        assert follow(database) is not None
        outbox.put_back(relay, [task_id])
    with database.begin() as connection:
        assert [task_id] == [due.task_id for due in publish(connection, 10)]


def test_only_one_of_several_reconcilers_moves_waiting_rows(database: sa.Engine) -> None:
    submit(database, 3)
    set_back(database, 60)
    database.dispose()
    moved = []
    threads = [threading.Thread(target=lambda: moved.append(follow(database))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(by is not None for by in moved) == 1
    assert all(-62 < seconds < -58 for seconds in due_in(database))


def test_after_the_clock_was_set_back_every_scan_starts_at_the_beginning(
    database: sa.Engine,
) -> None:
    with database.begin() as connection:
        connection.execute(sa.text("UPDATE scan_bounds SET due_from = now(), started_from = now()"))
    set_back(database, 60)
    follow(database)
    with database.begin() as connection:
        bounds = connection.execute(
            sa.text("SELECT due_from = '-infinity' AND started_from = '-infinity' FROM scan_bounds")
        )
        assert bounds.scalar() is True
