"""Leases: whose tasks are abandoned, which attempts are lost, who is alive."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from backend.db import ledger, lookups, workers
from tests.integration.test_ledger import put, submit

LEASES = {
    "no lease": (None, [], True),
    "a lease that ran out": (-1, ["{key}"], True),
    "a live lease that holds it": (10, ["{key}"], False),
    "a live lease that lost it": (10, [], True),
    "a live lease that holds another attempt": (10, ["{id}/1"], True),
}


@pytest.mark.parametrize("case", LEASES)
def test_a_started_task_is_abandoned_when_no_live_lease_holds_it(
    database: sa.Engine, case: str
) -> None:
    seconds, holds, abandoned = LEASES[case]
    task_id = put(database, "STARTED", attempt=2)
    with database.begin() as connection:
        connection.execute(sa.text("UPDATE tasks SET started_at = now() - interval '6 s'"))
        if seconds is not None:
            keys = [hold.format(key=f"{task_id}/2", id=task_id) for hold in holds]
            workers.renew(connection, "w", lambda: keys)
            connection.execute(
                sa.text("UPDATE workers SET expires_at = now() + make_interval(secs => :s)"),
                {"s": seconds},
            )
        dead = seconds is None or seconds < 0
        expected = [(task_id, 2, "w", dead)] if abandoned else []
        assert lookups.abandoned(connection, dead_too=True) == expected
        # After an outage a dead worker is not told from one that had no time to renew its lease.
        assert lookups.abandoned(connection, dead_too=False) == ([] if dead else expected)


def test_a_task_started_just_now_is_not_missed_by_a_lease_that_could_not_know(
    database: sa.Engine,
) -> None:
    put(database, "STARTED")
    with database.begin() as connection:
        workers.renew(connection, "w", list)
        assert lookups.abandoned(connection, dead_too=True) == []


@pytest.mark.parametrize("state", ["PENDING", "RETRY"])
def test_a_task_that_waits_is_not_abandoned(database: sa.Engine, state: str) -> None:
    put(database, state)
    with database.begin() as connection:
        assert lookups.abandoned(connection, dead_too=True) == []


def test_a_renewal_tells_which_attempts_no_longer_count(database: sa.Engine) -> None:
    runs, ended, revoked, superseded = submit(database, 4)
    with database.begin() as connection:
        for task_id in (runs, ended, revoked, superseded):
            ledger.claim(connection, task_id, 1, "w")
        ledger.succeed(connection, ended, 1, "{}")
        ledger.revoke(connection, revoked, 1, "enough")
        ledger.fail(connection, superseded, 1, "lost", "w")
        holds = [f"{task_id}/1" for task_id in (runs, ended, revoked, superseded)]
        lost = workers.renew(connection, "w", lambda: holds)
        assert sorted(lost) == sorted([f"{revoked}/1", f"{superseded}/1"])
        assert workers.renew(connection, "w", lambda: [f"{superseded}/2"]) == []


def test_a_worker_is_alive_while_its_lease_runs(database: sa.Engine) -> None:
    with database.begin() as connection:
        for name in ("runs", "ran out", "ended", "forgotten"):
            workers.renew(connection, name, list)
        workers.end(connection, "ended")
        for name, age in (("ran out", "1 s"), ("forgotten", "2 h")):
            connection.execute(
                sa.text(
                    "UPDATE workers SET expires_at = now() - CAST(:age AS interval)"
                    " WHERE name = :name"
                ),
                {"name": name, "age": age},
            )
        assert workers.alive(connection) == ["runs"]
        workers.forget_dead(connection)
        left = connection.execute(sa.text("SELECT name FROM workers ORDER BY name")).scalars()
        assert list(left) == ["ran out", "runs"]
