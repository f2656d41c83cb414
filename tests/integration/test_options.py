"""Tasks with options, in ledger and outbox."""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from string import ascii_letters
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
import sqlalchemy as sa

from backend.broker.pack import pack
from backend.db import control, leases, ledger, locked, lost_messages, outbox, purge, records
from backend.db.purge import Progress
from backend.errors import Duplicate
from backend.maintenance.republish import LostMessages
from backend.options import Options
from backend.registry import registered
from tests.support.attempts import attempt_of
from tests.support.ledger import age, box, claim, publish, put, task

if TYPE_CHECKING:
    from collections.abc import Sequence


def submit(
    database: sa.Engine, *options: Options | None, name: str = "slow", args: str = "{}"
) -> list[str]:
    """Submit a task with each of the options; return the ids."""
    ids = sorted(str(uuid4()) for _ in options)
    tasks = [
        records.TaskRecord(task_id, name, args, 3, options=each or None)
        for task_id, each in zip(ids, options, strict=True)
    ]
    with database.begin() as connection:
        ledger.submit(connection, tasks)
    return [each.id for each in tasks]


def take(database: sa.Engine, limit: int = 100) -> list[records.OutboxEntry]:
    with database.begin() as connection:
        return outbox.take(connection, limit)


def ids_of(entries: Sequence[records.OutboxEntry]) -> list[str]:
    return [entry.task_id for entry in entries]


def waits(database: sa.Engine, task_id: str) -> float:
    """Return in how many seconds a task is due."""
    with database.begin() as connection:
        seconds = sa.text(
            "SELECT extract(epoch FROM due_at - now()) FROM outbox WHERE task_id = :id"
        )
        return float(connection.execute(seconds, {"id": task_id}).scalar_one())


def test_the_row_of_a_task_has_what_was_asked_for(database: sa.Engine) -> None:
    asked = Options(priority=7, countdown=60, expires=30, time_limit=2, max_attempts=2, tags=("a",))
    task_id, plain = submit(database, asked, None)
    row = task(database, task_id)
    assert row["options"] == {
        "priority": 7,
        "countdown": 60,
        "time_limit": 2,
        "max_attempts": 2,
        "tags": ["a"],
    }
    assert row["max_attempts"] == 2
    assert row["eta"] - row["created_at"] == timedelta(seconds=60)
    assert row["expires_at"] - row["created_at"] == timedelta(seconds=90)
    assert 58 < waits(database, task_id) < 61
    other = task(database, plain)
    assert (other["options"], other["eta"], other["expires_at"]) == (None, None, None)
    assert other["max_attempts"] == 3
    assert ids_of(take(database)) == [plain]


def test_a_task_with_a_past_eta_is_due_at_once_and_expires_from_now_on(database: sa.Engine) -> None:
    past = datetime.now(UTC) - timedelta(days=1)
    (task_id,) = submit(database, Options(eta=past, expires=60))
    assert ids_of(take(database)) == [task_id]
    row = task(database, task_id)
    assert row["eta"] == past
    assert row["expires_at"] - row["created_at"] == timedelta(seconds=60)


def test_urgent_tasks_are_taken_first_and_others_by_age(database: sa.Engine) -> None:
    first = submit(database, Options(priority=0), None, Options(priority=5), Options(priority=9))
    then = submit(database, Options(priority=9), None, Options(priority=3))
    later = submit(database, Options(priority=9, countdown=60))
    expected = [first[3], then[0], first[2], first[1], then[1], then[2], first[0]]
    assert ids_of(take(database)) == expected
    assert [entry.priority for entry in take(database)] == [9, 9, 5, 4, 4, 3, 0]
    for limit in range(8):
        assert ids_of(take(database, limit)) == expected[:limit]
    assert later[0] in dict(box(database))


def test_an_urgent_task_is_taken_before_older_ones_with_many_bytes(database: sa.Engine) -> None:
    large = json.dumps("".join(random.choices(ascii_letters, k=outbox.TAKE_BYTES)))
    old = submit(database, None, None, args=large)
    (urgent,) = submit(database, Options(priority=9))
    assert ids_of(take(database, limit=2)) == [urgent, old[0]]


def test_a_message_has_tasks_of_one_priority(database: sa.Engine) -> None:
    urgent = Options(priority=9)
    submitted = submit(database, None, urgent, None, urgent, name="insert_message")
    messages = pack(take(database), frozenset())
    assert [(message.priority, message.task_ids) for message in messages] == [
        (9, [submitted[1], submitted[3]]),
        (4, [submitted[0], submitted[2]]),
    ]


@pytest.mark.parametrize("name", ["slow", "insert_message"])
def test_a_task_with_limits_of_its_own_has_its_own_message(database: sa.Engine, name: str) -> None:
    submit(database, Options(time_limit=2), Options(max_attempts=2), name=name)
    messages = pack(take(database), frozenset())
    assert [message.bundle for message in messages] == [False, False]
    assert {(each.entries[0].time_limit, each.entries[0].max_attempts) for each in messages} == {
        (2.0, None),
        (None, 2),
    }


def test_the_next_attempt_keeps_the_priority(database: sa.Engine) -> None:
    (task_id,) = submit(database, Options(priority=9))
    with database.begin() as connection:
        claim(connection, task_id, 1)
        locked.fail(connection, task_id, 1, "no", "w")
    assert [(entry.attempt, entry.priority) for entry in take(database)] == [(2, 9)]


@pytest.mark.parametrize("state", ["PENDING", "RETRY"])
def test_an_expired_task_does_not_start_and_is_revoked(database: sa.Engine, state: str) -> None:
    task_id = put(database, state)
    other = put(database, state)
    with database.begin() as connection:
        connection.execute(
            sa.text("UPDATE tasks SET expires_at = now() WHERE id = :id"), {"id": task_id}
        )
    with database.begin() as connection:
        assert not claim(connection, task_id, 1)
        assert not locked.hold(connection, {task_id: 1}, "w").ids
        assert claim(connection, other, 1)
        assert [row.id for row in control.expire(connection, 10)] == [task_id]
    row = task(database, task_id)
    assert (row["state"], row["error"]) == ("REVOKED", "Expired")
    assert box(database) == []


def test_an_attempt_that_started_in_time_goes_on_but_has_no_successor(database: sa.Engine) -> None:
    (task_id,) = submit(database, Options(expires=60))
    with database.begin() as connection:
        claim(connection, task_id, 1)
        connection.execute(sa.text("UPDATE tasks SET expires_at = now()"))
    with database.begin() as connection:
        assert control.expire(connection, 10) == []
        locked.fail(connection, task_id, 1, "no", "w")
        assert [row.id for row in control.expire(connection, 10)] == [task_id]


def test_a_retried_task_no_longer_expires_and_keeps_its_other_options(database: sa.Engine) -> None:
    (task_id,) = submit(database, Options(priority=8, expires=60, tags=("a",)))
    with database.begin() as connection:
        connection.execute(sa.text("UPDATE tasks SET expires_at = now()"))
    with database.begin() as connection:
        control.expire(connection, 10)
        assert control.retry(connection, [task_id])[task_id].changed
    row = task(database, task_id)
    assert (row["expires_at"], row["options"]) == (None, {"priority": 8, "tags": ["a"]})
    assert [entry.priority for entry in take(database)] == [8]


def test_lost_messages_of_each_priority_are_published_again(database: sa.Engine) -> None:
    urgent, usual, low = submit(database, Options(priority=9), None, Options(priority=1))
    with database.begin() as connection:
        publish(connection, 10)
    for seconds, task_id in enumerate((urgent, usual, low), 20):
        age(database, task_id, seconds)
    with database.begin() as connection:
        times = lost_messages.oldest_published(connection, "tasks", 1)
        assert len(times) == 3
        assert lost_messages.republish(connection, "tasks", times) == 3


def test_messages_that_may_be_lost_are_published_again_together(database: sa.Engine) -> None:
    urgent, usual = submit(database, Options(priority=9), None)
    with database.begin() as connection:
        publish(connection, 10)
    age(database, usual, 20)
    with database.begin() as connection:
        times = lost_messages.oldest_published(connection, "tasks", 1)
        assert len(times) == 2
        assert lost_messages.republish(connection, "tasks", times) == 0
    age(database, urgent, 20)
    with database.begin() as connection:
        times = lost_messages.oldest_published(connection, "tasks", 1)
        assert lost_messages.republish(connection, "tasks", times) == 2


def test_a_purged_task_leaves_no_tags(database: sa.Engine) -> None:
    (task_id,) = submit(database, Options(tags=("a", "b")))
    count = sa.text("SELECT count(*) FROM task_tags")
    with database.begin() as connection:
        assert connection.execute(count).scalar() == 2
        control.cancel(connection, [task_id])
        now = datetime.now(UTC) + timedelta(days=1)
        connection.execute(sa.text("UPDATE tasks SET finished_at = now() - interval '1 h'"))
        assert purge.delete(connection, Progress(), timedelta(minutes=1), now).tasks == 1
        assert connection.execute(count).scalar() == 0


def test_an_attempt_that_has_begun_in_time_is_started_after_its_expiry(service: sa.Engine) -> None:
    (task_id,) = submit(service, Options(expires=60))
    attempt = attempt_of(registered()["slow"], task_id, "{}")
    with service.begin() as connection:
        leases.renew(connection, attempt.worker, list)
        connection.execute(sa.text("UPDATE tasks SET expires_at = now()"))
    with pytest.raises(Duplicate):
        attempt.claim()
    attempt.claim(begun=True)
    assert task(service, task_id)["state"] == "STARTED"


class OneMissing(LostMessages):
    """Reports that the broker lacks a message."""

    held_seconds = 0

    def _compare(self, _expected: object) -> Counter[str]:
        return Counter({"tasks": 1})


def test_a_message_of_low_priority_is_not_lost_while_workers_take_urgent_ones(
    service: sa.Engine,
) -> None:
    low, *urgent = submit(service, Options(priority=1), *[Options(priority=9)] * 3)
    with service.begin() as connection:
        publish(connection, 10)
    for seconds, task_id in enumerate((low, *reversed(urgent)), 20):
        age(service, task_id, seconds)
    lost_ones = OneMissing(threading.Event())
    for task_id in urgent[:2]:
        lost_ones.republish()
        with service.begin() as connection:
            assert claim(connection, task_id, 1)
    assert take(service) == []
    for _ in range(3):  # nobody takes the last urgent one
        lost_ones.republish()
    assert ids_of(take(service)) == [urgent[2], low]
