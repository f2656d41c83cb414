"""The reconciler's duties under locks, outages and open transactions."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
import sqlalchemy as sa

from backend.db import leases, ledger
from backend.db.records import TASKS
from backend.errors import LeaseExpired, StoreLocked, StoreNotWritable
from backend.maintenance import reconciler, rescue
from backend.maintenance.liveness import Liveness
from backend.maintenance.republish import LostMessages
from backend.registry import registered
from tests.support.attempts import attempt_of
from tests.support.ledger import age, lock_waiters, publish, put, submit, task
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from backend.worker.attempt.attempt import Attempt

pytestmark = pytest.mark.usefixtures("service")


class AllDead(Liveness):
    """Has observed every worker for long enough."""

    def __init__(self) -> None:
        super().__init__()
        self.looked: list[set[str]] = []

    def find_dead(
        self, began: float, ended: float, leases: Mapping[str, datetime | None]
    ) -> set[str]:
        del began, ended
        self.looked.append(set(leases))
        return set(leases)


def test_no_worker_is_declared_dead_while_postgresql_is_read_only(
    service: sa.Engine,
) -> None:
    made = reconciler.Reconciler()
    made._liveness = liveness = AllDead()
    name = service.url.database
    with service.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    with pytest.raises(StoreNotWritable):
        made.make_pass()
    assert liveness.looked == []


def test_a_task_with_a_locked_row_does_not_delay_others(service: sa.Engine) -> None:
    ids = submit(service, 3)
    with service.begin() as connection:
        for one in ids:
            assert ledger.claim(connection, {one: 1}, "w").ids
    liveness = AllDead()
    with service.connect() as other:
        other.execute(sa.text("SELECT FROM tasks WHERE id = :id FOR UPDATE"), {"id": ids[0]})
        rescue.retry_abandoned(liveness)
        states = {one: task(service, one)["state"] for one in ids}
        assert states == {one: "STARTED" if one == ids[0] else "RETRY" for one in ids}
    rescue.retry_abandoned(liveness)
    assert {task(service, one)["state"] for one in ids} == {"RETRY"}


def test_after_a_clock_step_an_open_transaction_does_not_delay_lost_tasks(
    service: sa.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    (lost,) = submit(service)
    with service.begin() as connection:
        assert ledger.claim(connection, {lost: 1}, "w").ids
        connection.execute(sa.text("UPDATE clock SET latest = now() + interval '10 min'"))
    made = reconciler.Reconciler()
    made._liveness = AllDead()
    with service.connect() as writer:
        writer.execute(sa.text("UPDATE outbox SET publishes = publishes"))
        made.make_pass()
        assert task(service, lost)["state"] == "RETRY"
    assert ["end that session" in record.message for record in caplog.records] == [False, True]
    made.make_pass()
    assert "was set back by 59" in caplog.records[-1].message


class ThreeMissing(LostMessages):
    """Reports that the broker lacks three messages."""

    def _compare(self, _expected: object) -> Counter[str]:
        return Counter({TASKS: 3})


def test_only_messages_that_stay_missing_are_published_again(
    service: sa.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    ids = submit(service, 4)
    for task_id in ids:
        with service.begin() as connection:
            publish(connection, 1)
        age(service, task_id, 20)
    lost_messages = ThreeMissing(threading.Event())
    lost_messages.held_seconds = 0
    lost_messages.republish()
    assert caplog.messages == [], "a worker may hold them"
    with service.begin() as connection:
        assert ledger.claim(connection, {ids[0]: 1}, "w").ids
    lost_messages.republish()
    assert caplog.messages == [
        "tasks that the broker has lost are published again: 2 (nothing runs twice)"
    ]
    with service.begin() as connection:
        again = [entry.task_id for entry in publish(connection, 10)]
    assert sorted(again) == sorted(ids[1:3]), "the fourth was no suspect at the first look"


class Locked(reconciler.Reconciler):
    """Meets a lock in the passes given to it."""

    def __init__(self, passes: Sequence[bool]) -> None:
        super().__init__()
        self.passes = list(passes)

    def make_pass(self) -> None:
        if self.passes.pop(0):
            raise StoreLocked


def test_a_lock_that_blocks_every_pass_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    made = Locked([True, True, False, True])
    while made.passes:
        made._turn()
    assert ["end that session" in record.message for record in caplog.records] == [True, True]


def slow_attempt(task_id: str, *, external: bool = False) -> Attempt:
    """Return an attempt of the worker "w"."""
    spec = registered()["slow"]
    if external:
        return attempt_of(spec, task_id, kwargs={"duration": 1}, external=True)
    return attempt_of(spec, task_id, '{"duration": 1}')


@pytest.mark.parametrize("external", [False, True])
def test_a_claim_whose_connection_broke_during_commit_is_recognised_afterwards(
    service: sa.Engine, *, external: bool
) -> None:
    task_id = str(uuid4()) if external else put(service, "PENDING")
    with service.begin() as connection:
        leases.renew(connection, "w", list)
    attempt = slow_attempt(task_id, external=external)
    errors: list[BaseException] = []

    def claim_again() -> None:
        try:
            attempt.claim()
        except BaseException as error:  # noqa: BLE001 - any fails the test
            errors.append(error)

    again = threading.Thread(target=claim_again)
    with service.connect() as cut_off:
        attempt.adopt(cut_off)
        claim = ledger.claim(cut_off, {task_id: 1}, "w")
        attempt._claim_transaction_id = claim.transaction_id
        again.start()
        eventually(lambda: lock_waiters(service), 4, "the second attempt to claim waits")
        cut_off.commit()
        again.join()
    assert errors == []
    row = task(service, task_id)
    assert (row["state"], row["attempt"]) == ("STARTED", 1)


def test_a_worker_without_a_lease_starts_no_task(service: sa.Engine) -> None:
    task_id = put(service, "PENDING")
    with pytest.raises(LeaseExpired):
        slow_attempt(task_id).claim()
    assert task(service, task_id)["state"] == "PENDING"
