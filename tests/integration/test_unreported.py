"""Outcomes that no child reports: attempts fail or are repeated, and clients get a reply."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from backend.db import control, locked
from backend.db.leases import RENEW_SECONDS
from backend.errors import StoreLocked
from backend.registry import registered
from backend.worker.parent.unreported import record_failure, record_revoke, reschedule_unstarted
from tests.support.attempts import attempt_of
from tests.support.ledger import box, claim, submit, succeed, task
from tests.support.waiting import eventually

if TYPE_CHECKING:
    import sqlalchemy as sa


@pytest.mark.parametrize(("max_attempts", "state"), [(3, "RETRY"), (1, "FAILURE")])
def test_an_attempt_that_could_not_be_sent_to_a_child_fails_with_the_reason(
    service: sa.Engine, replies: list[Any], max_attempts: int, state: str
) -> None:
    (task_id,) = submit(service, max_attempts=max_attempts)
    error = RecursionError("maximum recursion depth exceeded")
    delivery = attempt_of(registered()["slow"], task_id, "{}").delivery
    record_failure(delivery, "w", error)
    row = task(service, task_id)
    assert (row["state"], row["error"]) == (state, f"RecursionError: {error}")
    assert box(service) == ([(task_id, 2)] if state == "RETRY" else [])
    if state == "FAILURE":
        eventually(lambda: len(replies) == 1, 5, "a reply is sent")
        assert replies[0][2].state == "FAILURE"


def test_attempts_of_a_lost_batch_are_repeated_at_no_cost(service: sa.Engine) -> None:
    waits, ended = submit(service, 2)
    with service.begin() as connection:
        claim(connection, ended, 1)
        succeed(connection, ended, 1)
    reschedule_unstarted({waits: 1, ended: 1})
    row = task(service, waits)
    assert (row["state"], row["attempt"], row["max_attempts"]) == ("RETRY", 2, 4)
    assert (task(service, ended)["state"], box(service)) == ("SUCCESS", [(waits, 2)])


def test_a_revoked_attempt_ends_and_waiting_clients_get_a_reply(
    service: sa.Engine, replies: list[Any]
) -> None:
    (task_id,) = submit(service)
    delivery = attempt_of(registered()["slow"], task_id, "{}").delivery
    record_revoke(task_id, "terminated", time.monotonic(), delivery)
    assert task(service, task_id)["state"] == "REVOKED"
    eventually(lambda: len(replies) == 1, 5, "a reply is sent")
    assert (replies[0][2].state, replies[0][2].error) == ("REVOKED", "terminated")


def test_a_late_copy_of_a_revoke_leaves_a_task_that_was_retried_since(service: sa.Engine) -> None:
    (task_id,) = submit(service)
    record_revoke(task_id, "revoked", time.monotonic())
    with service.begin() as connection:
        control.retry(connection, [task_id])
    record_revoke(task_id, "revoked", time.monotonic() - 5)
    assert task(service, task_id)["state"] == "RETRY"
    record_revoke(task_id, "revoked", time.monotonic())
    assert task(service, task_id)["state"] == "REVOKED"


def test_a_revoke_of_a_locked_task_does_not_keep_the_lease_from_being_renewed(
    service: sa.Engine,
) -> None:
    (task_id,) = submit(service)
    with service.begin() as other:
        locked.lock(other, [task_id])
        begin = time.monotonic()
        with pytest.raises(StoreLocked):
            record_revoke(task_id, "revoked", begin)
        assert time.monotonic() - begin < RENEW_SECONDS
    record_revoke(task_id, "revoked", time.monotonic())
    assert task(service, task_id)["state"] == "REVOKED"
