"""Accepting tasks: what is compared for a key, and which tasks count as waiting."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from backend.api.submissions import Form, Submissions, _Submission
from backend.db import idempotency
from backend.db.records import TaskRecord
from backend.errors import Invalid, TooManyWaiting

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import sqlalchemy as sa


@pytest.fixture
def submissions(service: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Submissions]:
    """Give submissions to an empty database with MAX_WAITING 50."""
    assert service
    monkeypatch.setenv("MAX_WAITING", "50")
    # Counted only once: from then on only new tasks are added to the count.
    monkeypatch.setattr("backend.api.admission.SAMPLE_SECONDS", 3600)
    made = Submissions()
    yield made
    for part in made.parts:
        part.close()


def tasks(*arguments: str) -> list[TaskRecord]:
    return [TaskRecord(str(uuid4()), "insert_message", text, 5) for text in arguments]


def render(ids: Sequence[str]) -> str:
    rows = [{"task_id": task_id, "status": "PENDING"} for task_id in ids]
    return json.dumps({"tasks": rows}, separators=(",", ":"))


def test_a_repeated_request_does_not_count_as_waiting(submissions: Submissions) -> None:
    async def scene() -> list[Sequence[str]]:
        answers = [
            await submissions.submit(tasks(*["{}"] * count), "batch", key, render)
            for count, key in [(10, "ten")] * 5 + [(40, None)]
        ]
        with pytest.raises(TooManyWaiting):
            await submissions.submit(tasks("{}"), "task", None, render)
        return answers

    *ten, forty = asyncio.run(scene())
    assert len({tuple(ids) for ids in ten}) == 1
    assert [len(ten[0]), len(forty)] == [10, 40]


@pytest.mark.parametrize(
    ("first", "again"),
    [
        ('{"content":"x"}', '{ "more": 1, "content": "x" }'),
        ("[1]", "[1]"),  # arguments that cannot be validated again
    ],
)
def test_a_key_is_compared_with_the_validated_arguments(
    submissions: Submissions, first: str, again: str
) -> None:
    async def scene() -> None:
        ids = await submissions.submit(tasks(first), "task", "key", render)
        assert await submissions.submit(tasks(again), "task", "key", render) == ids
        with pytest.raises(Invalid):
            await submissions.submit(tasks("[2]"), "task", "key", render)

    asyncio.run(scene())


FIRST, SECOND = str(uuid4()), str(uuid4())


@pytest.mark.parametrize(
    ("form", "ids", "answer"),
    [
        (
            "task",
            [FIRST],
            f'{{"task_id":"{FIRST}","status":"PENDING","message":"Task enqueued successfully"}}',
        ),
        (
            "batch",
            [FIRST, SECOND],
            (
                f'{{"tasks":[{{"task_id":"{FIRST}","status":"PENDING"}},'
                f'{{"task_id":"{SECOND}","status":"PENDING"}}],"total":2}}'
            ),
        ),
        (
            "lines",
            [FIRST, SECOND],
            (
                f'{{"line":1,"task_id":"{FIRST}","status":"PENDING"}}\n'
                '{"line":2,"errors":[{"detail":"must be one of '
                f'\\"task_id\\":\\"{uuid4()}\\"","pointer":"#/name"}}]}}\n'
                f'{{"line":3,"task_id":"{SECOND}","status":"PENDING"}}\n'
            ),
        ),
    ],
)
def test_a_key_stored_by_the_previous_version_returns_its_tasks(
    submissions: Submissions, database: sa.Engine, form: Form, ids: list[str], answer: str
) -> None:
    again = tasks(*["{}"] * len(ids))
    first = _Submission(tasks(*["{}"] * len(ids)), form, "old", render)
    with database.begin() as connection:
        connection.execute(
            text("INSERT INTO idempotency_keys (key, fingerprint, answer) VALUES ('old', :f, :a)"),
            {"f": first.fingerprint, "a": answer},
        )
    assert asyncio.run(submissions.submit(again, form, "old", render)) == ids


class _Purged:
    """A connection on which an old key is purged after the first insert has found it."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._purged = False

    def execute(self, statement: sa.TextClause, values: dict[str, Any]) -> object:
        result = self._connection.execute(statement, values)
        if not self._purged:
            self._purged = True
            self._connection.execute(text("DELETE FROM idempotency_keys WHERE key = 'old'"))
        return result


def test_a_key_purged_between_insert_and_lookup_is_stored_as_new(
    database: sa.Engine,
) -> None:
    before, again, other = (
        idempotency.KeyUse(key, fingerprint, [str(uuid4())])
        for key, fingerprint in [("old", "before"), ("old", "now"), ("new", "now")]
    )
    with database.begin() as connection:
        assert idempotency.remember(connection, [before]) == {"old": before}
        purged: Any = _Purged(connection)
        assert idempotency.remember(purged, [again, other]) == {"old": again, "new": other}
