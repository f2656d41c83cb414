"""Reads everything about a task, and the history: every task, newest first.

The time of a task is the one in its id, if that is a UUID of version 7. So the primary key has the
order. Other ids have a partial index, and the two are merged.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from uuid import UUID

from sqlalchemy import text

from backend.db.models import IS_OTHER_ID
from backend.db.queries import REPORTED_STATE
from backend.ids import time_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import RowMapping

    from backend.db.session import Executor

# How many tasks one request looks at, where no index helps.
LOOKED_AT = 50_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


class Position(NamedTuple):
    """Where a page begins: it has the tasks before this time and id (microseconds since 1970)."""

    time: int
    id: UUID

    @classmethod
    def at(cls, time: datetime) -> Self:
        """Return the position after all tasks that are older than a time."""
        return cls((time - _EPOCH) // timedelta(microseconds=1), UUID(int=0))

    def bound(self) -> UUID:
        """Return the id that ours must be smaller than."""
        milliseconds, rest = divmod(self.time, 1000)
        if rest:
            milliseconds += 1
        first = max(0, min(milliseconds, 2**48 - 1)) << 80
        if rest or self.id.int < first:
            return UUID(int=first)
        return UUID(int=min(self.id.int, first + (1 << 80) - 1))


END = Position(2**62, UUID(int=2**128 - 1))


@dataclass(frozen=True)
class Filter:
    """Which tasks: each field that is not empty must fit, with one of its values."""

    statuses: Sequence[str] = ()
    tags: Sequence[str] = ()
    names: Sequence[str] | None = None
    error: str | None = None
    ids: Sequence[str] | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    text: str | None = None
    # Positions of tasks that the caller skips.
    before: Position = field(default=END)


class Page(NamedTuple):
    """Tasks of the history; `next`: where the next page begins, None after the last one."""

    tasks: list[RowMapping]
    next: Position | None


_COLUMNS = f"""
    id, name, {REPORTED_STATE} AS state, attempt, created_at, started_at, finished_at
"""
_CONDITIONS = {
    "statuses": f"{REPORTED_STATE} = ANY(CAST(:statuses AS text[]))",
    "tags": "id IN (SELECT task_id FROM task_tags WHERE tag = ANY(CAST(:tags AS text[])))",
    "names": "name = ANY(CAST(:names AS text[]))",
    "ids": "id = ANY(CAST(:ids AS uuid[]))",
    "error": """
        EXISTS (
            SELECT FROM task_attempts last
            WHERE last.task_id = seen.id AND last.attempt = seen.attempt AND error_type = :error
        )
    """,
    "text": "strpos(CAST(args AS text), :text) > 0",
}
# Ours, by the primary key; others, by their own index. `low` is inclusive. Most other ids are
# greater than ours of this century, so the scan of ours begins with those of tomorrow.
_OURS = f"id < :bound AND id >= :low AND NOT {IS_OTHER_ID}"
_OTHERS = f"""
    {IS_OTHER_ID} AND created_at >= :low_time AND created_at <= :time
        AND (created_at < :time OR id < :id)
"""
_STREAMS = ((_OURS, "id DESC", "id"), (_OTHERS, "created_at DESC, id DESC", "id, created_at"))


def page(connection: Executor, wanted: Filter, limit: int) -> Page:
    """Return up to `limit` tasks that fit, newest first; fewer if LOOKED_AT were looked at."""
    values = _values(wanted)
    conditions = " AND ".join(
        condition for name, condition in _CONDITIONS.items() if values.get(name) is not None
    )
    streams = []
    ends = []
    for rows, order, keys in _STREAMS:
        found, end = _read(connection, rows, order, keys, conditions or "true", values, limit)
        streams.append(found)
        if end is not None:
            ends.append(end)
    # A stream that ended early says nothing about older tasks.
    horizon = max(ends, default=None)
    merged = merge(*streams, key=_position, reverse=True)
    known = (row for row in merged if horizon is None or _position(row) >= horizon)
    tasks = list(islice(known, limit))
    if len(tasks) == limit:
        return Page(tasks, _position(tasks[-1]))
    return Page(tasks, horizon)


def _read(
    connection: Executor,
    rows: str,
    order: str,
    keys: str,
    conditions: str,
    values: dict[str, Any],
    limit: int,
) -> tuple[list[RowMapping], Position | None]:
    """Return a stream's next tasks, and where it stopped looking; None at its end."""
    statement = f"""
        SELECT {_COLUMNS} FROM (
            SELECT * FROM tasks WHERE {rows} ORDER BY {order} LIMIT {LOOKED_AT}
        ) seen WHERE {conditions} ORDER BY {order} LIMIT :limit
    """
    found = list(connection.execute(text(statement), {**values, "limit": limit}).mappings())
    if len(found) == limit:
        return found, _position(found[-1])
    last = f"SELECT {keys} FROM tasks WHERE {rows} ORDER BY {order} OFFSET {LOOKED_AT - 1} LIMIT 1"
    row = connection.execute(text(last), values).mappings().first()
    return found, None if row is None else _position(row)


def _position(row: RowMapping) -> Position:
    """Return the position of a task."""
    milliseconds = time_of(row["id"])
    if milliseconds is not None:
        return Position(milliseconds * 1000, row["id"])
    return Position.at(row["created_at"])._replace(id=row["id"])


def _values(wanted: Filter) -> dict[str, Any]:
    """Return the parameters of a page's statements."""
    low = wanted.created_after or _EPOCH
    before = wanted.before
    if wanted.created_before is not None:
        before = min(before, Position.at(wanted.created_before))
    return {
        "statuses": list(wanted.statuses) or None,
        "tags": list(wanted.tags) or None,
        "names": None if wanted.names is None else list(wanted.names),
        "ids": None if wanted.ids is None else list(wanted.ids),
        "error": wanted.error,
        "text": wanted.text,
        "bound": min(before, Position.at(datetime.now(UTC) + timedelta(days=1))).bound(),
        "low": Position.at(low).bound(),
        "low_time": low,
        "time": _time(before),
        "id": before.id,
    }


def _time(position: Position) -> datetime:
    latest = datetime(9999, 1, 1, tzinfo=UTC)
    try:
        return min(_EPOCH + timedelta(microseconds=position.time), latest)
    except OverflowError:
        return latest


_DETAIL = text(
    f"""
    SELECT tasks.*, CAST(args AS text) AS arguments, CAST(result AS text) AS value,
        {REPORTED_STATE} AS reported,
        (SELECT due_at FROM outbox WHERE task_id = tasks.id) AS due_at
    FROM tasks WHERE id = CAST(:id AS uuid)
    """
)
_ATTEMPTS = text("SELECT * FROM task_attempts WHERE task_id = CAST(:id AS uuid) ORDER BY attempt")


def detail(connection: Executor, task_id: str) -> tuple[RowMapping, list[RowMapping]] | None:
    """Return the row of a task, with the rows of its attempts; None for an unknown id."""
    row = connection.execute(_DETAIL, {"id": task_id}).mappings().one_or_none()
    if row is None:
        return None
    return row, list(connection.execute(_ATTEMPTS, {"id": task_id}).mappings())
