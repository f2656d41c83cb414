"""The history of tasks, and the record of one with its attempts."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from backend.api.history import TaskFilter, decode_cursor, encode_cursor
from backend.db import attempts, control, history, ledger, locked, records
from backend.db.detail import read
from backend.db.history import Filter, page
from backend.db.position import NEWEST, Position
from backend.ids import new_task_id
from backend.options import Options
from tests.support.ledger import claim, reschedule, task

if TYPE_CHECKING:
    from collections.abc import Iterator

PAST = datetime(2026, 3, 1, tzinfo=UTC)


def id_of(moment: datetime) -> str:
    """Return an id of ours that was made at a time."""
    milliseconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    return str(UUID(int=milliseconds << 80 | 7 << 76 | 2 << 62 | random.getrandbits(62)))


def add(
    database: sa.Engine,
    *moments: datetime,
    ours: bool = True,
    name: str = "slow",
    args: str = "{}",
    options: Options | None = None,
) -> list[str]:
    """Submit tasks that were accepted at these times; return their ids."""
    # Some of the others are smaller than ours.
    others = [
        f"00{str(uuid4())[2:]}" if place % 2 else str(uuid4()) for place in range(len(moments))
    ]
    ids = [id_of(moment) for moment in moments] if ours else others
    with database.begin() as connection:
        ledger.submit(
            connection,
            [records.TaskRecord(each, name, args, 3, options=options) for each in ids],
        )
        for task_id, moment in zip(ids, moments, strict=True):
            connection.execute(
                sa.text("UPDATE tasks SET created_at = :t WHERE id = :id"),
                {"t": moment, "id": task_id},
            )
    return ids


def pages(database: sa.Engine, limit: int, **wanted: Any) -> Iterator[list[str]]:
    """Yield the ids of each page."""
    position: Position | None = NEWEST
    number = 0
    while position is not None:
        number += 1
        assert number < 100, "the pages do not end"
        with database.begin() as connection:
            found = page(connection, Filter(**wanted, before=position), limit)
        yield [str(row["id"]) for row in found.tasks]
        # A client sends the position back as a text.
        if found.next is not None:
            assert decode_cursor(encode_cursor(found.next)) == found.next
        position = found.next


def found(database: sa.Engine, limit: int = 100, **wanted: Any) -> list[str]:
    return [task_id for each in pages(database, limit, **wanted) for task_id in each]


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 100])
def test_each_task_is_on_one_page_newest_first_whatever_its_id_is(
    database: sa.Engine, limit: int
) -> None:
    moments = [PAST + timedelta(milliseconds=number // 2) for number in range(12)]
    added: dict[str, datetime] = {}
    for place, moment in enumerate(moments):
        for task_id in add(database, moment, moment, ours=place % 3 > 0):
            added[task_id] = moment
    listed = found(database, limit)
    assert sorted(listed) == sorted(added)
    times = [added[task_id] for task_id in listed]
    assert times == sorted(times, reverse=True)


def test_a_page_stays_right_when_tasks_are_purged_and_added(database: sa.Engine) -> None:
    ids = add(database, *(PAST + timedelta(seconds=number) for number in range(6)))
    with database.begin() as connection:
        first = page(connection, Filter(), 2)
        connection.execute(sa.text("DELETE FROM tasks WHERE id = :id"), {"id": ids[4]})
        assert first.next is not None
    add(database, PAST + timedelta(minutes=1))
    with database.begin() as connection:
        second = page(connection, Filter(before=first.next), 10)
    assert [str(row["id"]) for row in second.tasks] == ids[3::-1]


def test_a_request_looks_at_a_limited_number_of_tasks(
    database: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "LOOKED_AT", 5)
    (wanted,) = add(database, PAST, name="rare")
    add(database, *(PAST + timedelta(seconds=1 + number) for number in range(11)))
    add(database, *(PAST + timedelta(seconds=30 + number) for number in range(7)), ours=False)
    each = list(pages(database, 2, names=["rare"]))
    assert [task_id for ids in each for task_id in ids] == [wanted]
    assert len(each) > 2


def test_older_tasks_wait_until_all_newer_ones_were_looked_at(
    database: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "LOOKED_AT", 5)
    (older,) = add(database, PAST, name="rare", ours=False)
    (newer,) = add(database, PAST + timedelta(seconds=1), name="rare")
    add(database, *(PAST + timedelta(seconds=10 + number) for number in range(11)))
    assert found(database, names=["rare"]) == [newer, older]


def test_times_are_inclusive_at_the_beginning_and_exclusive_at_the_end(
    database: sa.Engine,
) -> None:
    moments = [PAST + timedelta(seconds=number) for number in range(4)]
    ids = add(database, *moments)
    others = add(database, *moments, ours=False)
    listed = found(database, created_after=moments[1], created_before=moments[3])
    assert sorted(listed) == sorted([*ids[1:3], *others[1:3]])


def test_a_filter_has_any_of_its_values_and_all_of_its_fields(database: sa.Engine) -> None:
    (one,) = add(database, PAST, options=Options(tags=("a", "b")), args='{"text": "50% \u00e4"}')
    (two,) = add(database, PAST, options=Options(tags=("b",)), name="insert_message")
    (three,) = add(database, PAST, name="insert_message")
    with database.begin() as connection:
        control.cancel(connection, [three])
    assert sorted(found(database, tags=["a", "b"])) == sorted([one, two])
    assert found(database, tags=["b"], names=["insert_message"]) == [two]
    assert found(database, statuses=["REVOKED", "FAILURE"]) == [three]
    assert found(database, text="0% \u00e4") == [one]
    assert found(database, text="_") == []
    assert found(database, ids=[two, str(uuid4())]) == [two]
    assert found(database, names=[]) == []


def test_a_queue_is_that_of_the_tasks_declaration(database: sa.Engine) -> None:
    (slow,) = add(database, PAST)
    (message,) = add(database, PAST, name="insert_message")
    for queue, expected in (("tasks", [slow]), ("short_tasks", [message]), ("none", [])):
        wanted = TaskFilter(queue=queue).select(None)
        with database.begin() as connection:
            assert [str(row["id"]) for row in page(connection, wanted, 10).tasks] == expected


def detail(database: sa.Engine, task_id: str) -> list[tuple[Any, ...]]:
    """Return number, status, error and its class of the attempts that have rows."""
    with database.begin() as connection:
        known = read(connection, task_id)
    assert known is not None
    return [(row["attempt"], row["status"], row["error"], row["error_type"]) for row in known[1]]


def test_an_attempt_that_did_not_succeed_has_a_row(database: sa.Engine) -> None:
    task_id = new_task_id()
    with database.begin() as connection:
        ledger.submit(connection, [records.TaskRecord(task_id, "slow", "{}", 2)])
    with database.begin() as connection:
        claim(connection, task_id, 1)
        locked.fail(connection, task_id, 1, "KeyError: 'a'", "w", error_type="KeyError")
    with database.begin() as connection:
        assert not reschedule(connection, task_id, 1)
        claim(connection, task_id, 2)
        assert reschedule(connection, task_id, 2)  # handed back
    with database.begin() as connection:
        locked.fail(connection, task_id, 3, "lost", "w", error_type="WorkerLostError")
    assert task(database, task_id)["state"] == "FAILURE"
    assert detail(database, task_id) == [
        (1, "FAILURE", "KeyError: 'a'", "KeyError"),
        (2, "RETRY", "away", None),
        (3, "FAILURE", "lost", "WorkerLostError"),
    ]
    assert found(database, error="WorkerLostError") == [task_id]
    assert found(database, error="KeyError") == []


def test_an_attempt_that_never_started_has_no_row(database: sa.Engine) -> None:
    (task_id,) = add(database, PAST)
    with database.begin() as connection:
        reschedule(connection, task_id, 1, waiting=True)
    with database.begin() as connection:
        claim(connection, task_id, 2)
    with database.begin() as connection:
        reschedule(connection, task_id, 2)
        reschedule(connection, task_id, 3, waiting=True)
    assert detail(database, task_id) == [(2, "RETRY", "away", None)]


def test_a_retried_task_keeps_the_row_of_the_attempt_before(database: sa.Engine) -> None:
    (task_id,) = add(database, PAST)
    with database.begin() as connection:
        claim(connection, task_id, 1)
        control.cancel(connection, [task_id])
    with database.begin() as connection:
        control.retry(connection, [task_id])
    assert detail(database, task_id) == [(1, "REVOKED", "Cancelled", None)]


def test_only_the_newest_attempts_are_kept(database: sa.Engine) -> None:
    assert attempts.MAX_ROWS == 100
    (task_id,) = add(database, PAST)
    for attempt in range(1, 105):
        with database.begin() as connection:
            claim(connection, task_id, attempt)
        with database.begin() as connection:
            reschedule(connection, task_id, attempt)
    numbers = [number for number, *_ in detail(database, task_id)]
    assert numbers == list(range(5, 105))


def test_a_failed_attempt_that_was_never_started_has_a_row(database: sa.Engine) -> None:
    """It ran in a group or a batch, which holds it without a claim."""
    (task_id,) = add(database, PAST)
    with database.begin() as connection:
        locked.fail(connection, task_id, 1, "KeyError: 1", "w", retry=False, error_type="KeyError")
    assert detail(database, task_id) == [(1, "FAILURE", "KeyError: 1", "KeyError")]
    assert found(database, error="KeyError") == [task_id]


def test_a_retried_task_has_no_row_of_an_attempt_that_never_started(database: sa.Engine) -> None:
    (task_id,) = add(database, PAST)
    with database.begin() as connection:
        claim(connection, task_id, 1)
    with database.begin() as connection:
        locked.fail(connection, task_id, 1, "KeyError: 1", "w", declared=3, error_type="KeyError")
    with database.begin() as connection:
        control.cancel(connection, [task_id])
        control.retry(connection, [task_id])
    assert detail(database, task_id) == [(1, "FAILURE", "KeyError: 1", "KeyError")]
    assert found(database, error="KeyError") == [task_id]


def test_tasks_are_found_by_id_tag_and_unfinished_state_behind_any_number_of_newer_ones(
    database: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "LOOKED_AT", 5)
    (wanted,) = add(database, PAST, options=Options(tags=("a",)))
    newer = add(database, *(PAST + timedelta(seconds=1 + number) for number in range(20)))
    with database.begin() as connection:
        control.cancel(connection, newer)
    for filters in ({"ids": [wanted]}, {"tags": ["a", "b"]}, {"statuses": ["PENDING"]}):
        assert list(pages(database, 10, **filters)) == [[wanted]]


def test_a_task_is_found_by_its_tag_behind_any_number_of_tags_of_deleted_tasks(
    database: sa.Engine,
) -> None:
    (wanted,) = add(database, PAST, options=Options(tags=("a",)))
    first = UUID(id_of(PAST + timedelta(seconds=1)))
    left_behind = [str(UUID(int=first.int + number)) for number in range(history.TAGGED + 1)]
    with database.begin() as connection:
        connection.execute(
            sa.text("INSERT INTO task_tags SELECT 'a', unnest(CAST(:ids AS uuid[]))"),
            {"ids": left_behind},
        )
    assert list(pages(database, 10, tags=["a"])) == [[], [wanted]]


def test_a_version_7_id_with_a_time_of_another_century_is_listed_by_its_row(
    database: sa.Engine,
) -> None:
    task_id = id_of(datetime(2198, 1, 1, tzinfo=UTC))
    (other,) = add(database, PAST)
    with database.begin() as connection:
        ledger.submit(connection, [records.TaskRecord(task_id, "slow", "{}", 3)])
    assert found(database) == [task_id, other]


def test_a_search_for_text_looks_at_a_limited_number_of_bytes(
    database: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "LOOKED_AT_BYTES", 500)
    (wanted,) = add(database, PAST, args='{"text":"here"}')
    text = "".join(random.choices("abcdefgh", k=200))
    add(
        database,
        *(PAST + timedelta(seconds=1 + number) for number in range(9)),
        args=f'{{"text":"{text}"}}',
    )
    each = list(pages(database, 10, text="here"))
    assert [task_id for ids in each for task_id in ids] == [wanted]
    assert len(each) > 2
