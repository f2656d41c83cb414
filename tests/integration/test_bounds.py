"""Scan bounds: what a scan need not read while an old snapshot is open, and that it misses none."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from backend.db import bounds, ledger, locked, outbox, queries, records
from tests.integration.test_ledger import submit
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ENDED = 20_000

# For the same plans each time: no statistics but those of the time when the most was waiting.
KEEP_STATISTICS = (
    "ALTER TABLE tasks SET (autovacuum_enabled = false);"
    "ALTER TABLE outbox SET (autovacuum_enabled = false)"
)
# The whole way of tasks that were accepted ten minutes ago and have ended since.
CHURN = [
    f"""
    INSERT INTO tasks (id, name, args, max_attempts, created_at)
    SELECT gen_random_uuid(), 'slow', '{{}}', 3, now() - interval '10 min' + n * interval '1 us'
    FROM generate_series(1, {ENDED}) n
    """,
    "INSERT INTO outbox (task_id, due_at) SELECT id, created_at FROM tasks",
    "UPDATE outbox SET published_at = due_at",
    "ANALYZE tasks, outbox",
    "UPDATE tasks SET state = 'STARTED', started_at = created_at, worker = 'w'",
    "DELETE FROM outbox",
    "UPDATE tasks SET state = 'SUCCESS', finished_at = now()",
]

STATEMENTS: dict[str, tuple[sa.TextClause, dict[str, Any]]] = {
    "take": (outbox._TAKE, {"limit": 500, "bytes": outbox.TAKE_BYTES, "bundled": []}),
    "published": (outbox._PUBLISHED, {}),
    "republish": (outbox._REPUBLISH, {"limit": 10, "bundled": False}),
    "republish overtaken": (outbox._REPUBLISH_OVERTAKEN, {"limit": 10}),
    "backlog": (outbox._WAITING, {"limit": 100_000}),
    "late": (outbox._HAS_OVERDUE, {}),
    "unfinished": (queries._LIST, {"limit": 1000, "few": queries.FEW}),
    "count": (queries._COUNT, {"limit": None}),
    "started": (queries._STARTED, {}),
    "hand back": (locked._LOCK_STARTED_BY, {"worker": "w"}),
}


def plan(connection: sa.Connection, statement: sa.TextClause, parameters: dict[str, Any]) -> str:
    """Return what PostgreSQL has done for a statement, as JSON text, and undo it."""
    *settings, last = statement.text.split(";")
    for setting in map(sa.text, settings):
        needed = setting.compile().params.keys()
        connection.execute(setting, {name: parameters[name] for name in needed})
    explain = sa.text(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {last}")
    done = connection.execute(explain, parameters).scalar_one()
    connection.rollback()
    return json.dumps(done)


def blocks(connection: sa.Connection, statement: sa.TextClause, parameters: dict[str, Any]) -> int:
    """Return how many blocks a statement reads, and undo it."""
    (done,) = json.loads(plan(connection, statement, parameters))
    return int(done["Plan"]["Shared Hit Blocks"] + done["Plan"]["Shared Read Blocks"])


def advance(connection: sa.Connection) -> None:
    """Do what the reconciler does while PostgreSQL's clock runs evenly."""
    now = connection.execute(sa.text("SELECT now()")).scalar_one()
    bounds.advance(connection, now)


def advanced(database: sa.Engine, *, every_row: bool = False) -> None:
    with database.begin() as connection:
        advance(connection)
        if every_row:
            bounds.lower(connection)


def minutes(database: sa.Engine) -> dict[str, float]:
    """Return how many minutes ago each bound is, rounded down."""
    with database.begin() as connection:
        row = connection.execute(sa.text("SELECT * FROM scan_bounds")).mappings().one()
        now = connection.execute(sa.text("SELECT now()")).scalar_one()
    return {
        bound: (now - time).total_seconds() // 60
        for bound, time in row.items()
        if bound != "only_row"
    }


def below(connection: sa.Connection) -> int:
    """Return how many rows are older than the bound of their scan."""
    found = sa.text(
        "SELECT"
        " (SELECT count(*) FROM outbox WHERE published_at IS NULL AND due_at < due_from)"
        " + (SELECT count(*) FROM outbox WHERE published_at < published_from)"
        " + (SELECT count(*) FROM tasks WHERE state IN ('PENDING', 'STARTED', 'RETRY')"
        " AND created_at < unfinished_from)"
        " + (SELECT count(*) FROM tasks WHERE state = 'STARTED' AND started_at < started_from)"
        " FROM scan_bounds"
    )
    return int(connection.execute(found).scalar_one())


@contextmanager
def old_snapshot(database: sa.Engine) -> Iterator[None]:
    """Keep a snapshot open, as pg_dump does."""
    with database.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        connection.execute(sa.text("SELECT count(*) FROM tasks"))
        yield


def test_a_scan_reads_little_of_what_has_ended_since_an_old_snapshot(database: sa.Engine) -> None:
    with old_snapshot(database):
        for statement in [KEEP_STATISTICS, *CHURN]:
            with database.begin() as connection:
                connection.exec_driver_sql(statement)
        submit(database, 3)
        with database.connect() as connection:
            before = {
                name: blocks(connection, *statement) for name, statement in STATEMENTS.items()
            }
        advanced(database)
        with database.connect() as connection:
            after = {name: blocks(connection, *statement) for name, statement in STATEMENTS.items()}
    assert min(before.values()) > ENDED / 100, "there is nothing to skip"
    assert max(after.values()) < 100, (before, after)


def backdate(database: sa.Engine) -> None:
    """Make every waiting task look as if it had been accepted ten minutes ago."""
    with database.begin() as connection:
        connection.execute(
            sa.text(
                "UPDATE outbox SET due_at = due_at - interval '10 min',"
                " published_at = published_at - interval '10 min'"
            )
        )
        connection.execute(sa.text("UPDATE tasks SET created_at = created_at - interval '10 min'"))


def take(connection: sa.Connection) -> list[str]:
    return sorted(due.task_id for due in outbox.take(connection, 500))


def test_a_bound_is_the_oldest_row_and_a_minute_ago_at_most(database: sa.Engine) -> None:
    advanced(database)
    bound = {"unfinished_from": 1, "started_from": 1, "due_from": 1, "published_from": 1}
    assert minutes(database) == bound
    ids = submit(database, 3)
    with database.begin() as connection:
        ledger.claim(connection, {ids[0]: 1}, "w")
        outbox.take(connection, 1)
    backdate(database)
    with database.begin() as connection:
        connection.execute(sa.text("UPDATE tasks SET started_at = now() - interval '5 min'"))
        connection.execute(sa.text("UPDATE outbox SET published_at = now() - interval '7 min'"))
        connection.execute(
            sa.text("UPDATE outbox SET published_at = NULL WHERE task_id = :id"), {"id": ids[2]}
        )
    advanced(database, every_row=True)
    bound = {"unfinished_from": 10, "started_from": 5, "due_from": 10, "published_from": 7}
    assert minutes(database) == bound


def test_a_bound_follows_the_time_it_is_given_and_the_clock_whichever_is_earlier(
    database: sa.Engine,
) -> None:
    for offset, age in (("-5 min", 6), ("1 h", 1)):
        with database.begin() as connection:
            now = connection.execute(
                sa.text("SELECT now() + CAST(:offset AS interval)"), {"offset": offset}
            ).scalar_one()
            bounds.advance(connection, now)
        assert set(minutes(database).values()) == {age}


def test_a_row_that_somebody_made_older_is_found_when_every_row_is_looked_at(
    database: sa.Engine,
) -> None:
    advanced(database)
    ids = submit(database, 2)
    backdate(database)
    with database.begin() as connection:
        assert take(connection) == []
        assert below(connection) > 0
    advanced(database, every_row=True)
    with database.begin() as connection:
        assert take(connection) == ids
        assert below(connection) == 0


def test_rows_written_after_the_clock_was_set_back_are_seen_at_once(database: sa.Engine) -> None:
    with database.begin() as connection:
        connection.execute(
            sa.text(
                "UPDATE scan_bounds SET due_from = now() + interval '1 h',"
                " unfinished_from = now() + interval '1 h',"
                " started_from = now() + interval '1 h', published_from = now() + interval '1 h'"
            )
        )
    ids = submit(database, 2)
    with database.begin() as connection:
        assert take(connection) == ids
        assert outbox.published(connection) == (2, 0)
        assert queries.unfinished(connection, 10)[1] == 2
        ledger.claim(connection, {ids[0]: 1}, "w")
        assert [attempt.task_id for attempt in queries.started(connection)] == [ids[0]]


def test_without_bounds_every_row_is_seen(database: sa.Engine) -> None:
    ids = submit(database, 2)
    backdate(database)
    with database.begin() as connection:
        connection.execute(sa.text("DELETE FROM scan_bounds"))
        assert take(connection) == ids


def put_back(connection: sa.Connection, ids: list[str]) -> None:
    outbox.put_back(connection, ids)


def republish(connection: sa.Connection, _ids: list[str]) -> None:
    assert outbox.republish(connection, 10, bundled=False) == 2


BRING_BACK = [put_back, republish]


@pytest.fixture
def published(database: sa.Engine) -> list[str]:
    """Give old tasks that have been published, long enough ago; bounds stand a minute ago."""
    ids = submit(database, 2)
    with database.begin() as connection:
        outbox.take(connection, 10)
    backdate(database)
    advanced(database)
    assert minutes(database)["due_from"] == 1
    return ids


@pytest.mark.parametrize("bring_back", BRING_BACK)
def test_what_is_to_be_published_again_is_taken_in_its_old_place(
    database: sa.Engine,
    published: list[str],
    bring_back: Callable[[sa.Connection, list[str]], None],
) -> None:
    submit(database)
    with database.begin() as connection:
        bring_back(connection, published)
        assert below(connection) == 0
    assert minutes(database)["due_from"] == 10
    with database.begin() as connection:
        assert sorted(due.task_id for due in outbox.take(connection, 2)) == published


@pytest.mark.parametrize("first", ["raise", "bring back"])
@pytest.mark.parametrize("bring_back", BRING_BACK)
def test_a_raise_and_what_is_brought_back_at_the_same_time_miss_nothing(
    database: sa.Engine,
    published: list[str],
    bring_back: Callable[[sa.Connection, list[str]], None],
    first: str,
) -> None:
    with database.begin() as connection:
        bounds.reset(connection)
    steps: list[Callable[[sa.Connection], object]] = [
        advance,
        lambda connection: bring_back(connection, published),
    ]
    if first == "bring back":
        steps.reverse()

    def run_second() -> None:
        with database.begin() as connection:
            steps[1](connection)

    waiting = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    second = threading.Thread(target=run_second)
    with database.connect() as connection, database.connect() as observer:
        steps[0](connection)
        second.start()
        eventually(lambda: observer.execute(waiting).scalar(), 4, "the second waits")
        connection.commit()
    second.join()
    with database.begin() as connection:
        assert below(connection) == 0
        assert take(connection) == published


def test_a_submission_that_commits_late_is_not_missed(database: sa.Engine) -> None:
    with database.connect() as late:
        ledger.submit(late, [records.NewTask(NEW, "slow", "{}", 3, None)])
        advanced(database)
        advanced(database, every_row=True)
        late.commit()
    with database.begin() as connection:
        assert below(connection) == 0
        assert take(connection) == [NEW]


NEW = "019a3f0e-7c1a-7d7e-9a53-0d8f2c7b1f55"


def test_no_row_is_ever_below_its_bound_whoever_works_at_the_same_time(
    database: sa.Engine,
) -> None:
    ids = submit(database, 40)
    backdate(database)
    failures: list[BaseException] = []
    stop = threading.Event()

    def forever(step: Callable[[sa.Connection], object]) -> Callable[[], None]:
        def run() -> None:
            try:
                while not stop.is_set():
                    with database.begin() as connection:
                        step(connection)
            except BaseException as error:  # noqa: BLE001 - any ends the test
                failures.append(error)
                stop.set()

        return run

    def check(connection: sa.Connection) -> None:
        assert below(connection) == 0

    def take_some(connection: sa.Connection) -> None:
        taken = [due.task_id for due in outbox.take(connection, 20)]
        # As if it had been long ago, for `republish`.
        connection.execute(
            sa.text(
                "UPDATE outbox SET published_at = now() - interval '50 s'"
                " WHERE task_id = ANY(CAST(:ids AS uuid[]))"
            ),
            {"ids": taken},
        )

    steps: list[Callable[[sa.Connection], object]] = [
        take_some,
        lambda connection: outbox.put_back(connection, ids[::3]),
        lambda connection: outbox.republish(connection, 5, bundled=False),
        advance,
        bounds.lower,
        bounds.reset,
        check,
    ]
    threads = [threading.Thread(target=forever(step)) for step in steps]
    for thread in threads:
        thread.start()
    stop.wait(3)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    with database.begin() as connection:
        connection.execute(sa.text("UPDATE outbox SET published_at = NULL"))
        outbox.put_back(connection, ids)
        assert take(connection) == ids
