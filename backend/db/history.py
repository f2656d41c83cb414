"""Reads the history: every task, newest first.

The time of a task is the one in its id, if that is a UUID of version 7. So the primary key sorts
them by time. Other ids have a partial index, and the two are merged.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import text

from backend.db.bounds import rows_from
from backend.db.fragments import array
from backend.db.models import IS_OTHER_ID
from backend.db.outbox import COMPRESSION
from backend.db.position import EPOCH, NEWEST, Position
from backend.db.queries import REPORTED_STATE
from backend.db.session import IN_INDEX_ORDER
from backend.ids import OTHERS_FROM, time_of
from backend.states import SUCCESS, UNFINISHED

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import RowMapping

    from backend.db.session import Executor

# Where no index helps, a request looks at this many tasks at most. If it searches for a text, it
# also looks at this many bytes of arguments at most.
LOOKED_AT = 20_000
LOOKED_AT_BYTES = 32 * 1024 * 1024
# The same for tasks with a tag: each of them is looked up.
TAGGED = 10_000
# Up to so many unfinished tasks are looked up by their own index.
FEW = 5_000


@dataclass(frozen=True)
class Filter:
    """Which tasks: each field that is not None must fit, with one of its values."""

    statuses: Collection[str] | None = None
    tags: Collection[str] | None = None
    names: Collection[str] | None = None
    error: str | None = None
    ids: Collection[str] | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    text: str | None = None
    # Only tasks that are older than this position.
    before: Position = NEWEST

    @property
    def is_empty(self) -> bool:
        """Return whether no task can fit."""
        return any(
            values is not None and not values
            for values in (self.statuses, self.tags, self.names, self.ids)
        )


class Page(NamedTuple):
    """Tasks of the history; `next`: where the next page begins, None after the last one."""

    tasks: list[RowMapping]
    next: Position | None


_COLUMNS = f"""
    id, name, {REPORTED_STATE} AS state, attempt, created_at, started_at, finished_at
"""
_CONDITIONS = {
    "statuses": f"{REPORTED_STATE} = ANY(CAST(:statuses AS text[]))",
    "names": "name = ANY(CAST(:names AS text[]))",
    "ids": "id = ANY(CAST(:ids AS uuid[]))",
    "error": f"""
        state <> '{SUCCESS}' AND :error = (
            SELECT error_type FROM task_attempts WHERE task_id = seen.id
            ORDER BY task_attempts.attempt DESC LIMIT 1
        )
    """,
    "text": "strpos(CAST(args AS text), :text) > 0",
}


class _Stream(NamedTuple):
    """Tasks in the order of an index.

    `rows`: which; `older`: which of them are older than `last`. `order`: newest first; `reverse`:
    oldest first. `condition`: what else must fit.
    """

    rows: str
    older: str
    order: str
    reverse: str
    condition: str


# Ours, by the primary key; others, by their own index. `low` is inclusive.
_OURS = _Stream(
    rows="id < :bound AND id >= :low",
    older="id < last.id AND id >= :low",
    order="id DESC",
    reverse="id",
    condition=f"NOT {IS_OTHER_ID} AND name IS NOT NULL",
)
_OTHERS = _Stream(
    rows=f"""
        {IS_OTHER_ID} AND created_at >= :low_time AND created_at <= :time
        AND (created_at < :time OR id < :id)
    """,
    older=f"""
        {IS_OTHER_ID} AND created_at >= :low_time AND created_at <= last.created_at
        AND (created_at < last.created_at OR id < last.id)
    """,
    order="created_at DESC, id DESC",
    reverse="created_at, id",
    condition="true",
)
# The planner expects more rows than a statement reads. So it would read the whole table, in several
# processes, or compile the statement (JIT), which takes longer than to execute it.
_AS_WRITTEN = f"""
    {IN_INDEX_ORDER} SET LOCAL enable_seqscan = off; SET LOCAL jit = off;
    SET LOCAL max_parallel_workers_per_gather = 0;
"""
# Only tasks of ours have tags. Each task is looked up, since a join would read the whole table. A
# tag whose task was deleted counts as looked at.
_TAGGED = f"""
    SELECT task_id AS id, name, args, state, progress, attempt, created_at, started_at, finished_at
    FROM (
        SELECT DISTINCT task_id FROM unnest(CAST(:tags AS text[])) AS wanted (tag)
        CROSS JOIN LATERAL (
            SELECT task_id FROM task_tags
            WHERE task_tags.tag = wanted.tag AND task_id < :bound AND task_id >= :low
            ORDER BY task_id DESC LIMIT {TAGGED}
        ) each
        ORDER BY task_id DESC LIMIT {TAGGED}
    ) tagged
    LEFT JOIN LATERAL (SELECT * FROM tasks WHERE tasks.id = task_id LIMIT 1) task ON true
"""
_MORE_TAGGED = """
    SELECT FROM task_tags
    WHERE tag = ANY(CAST(:tags AS text[])) AND task_id < last.id AND task_id >= :low
"""
# As relay and outbox measure arguments: the size of a compressed value is not known.
_BYTES = f"""
    coalesce(pg_column_size(args), 0)
        * CASE WHEN pg_column_compression(args) IS NULL THEN 1 ELSE {COMPRESSION} END
"""
_FEW = text(
    f"SELECT CAST(id AS text) FROM tasks WHERE {rows_from('unfinished_from')} LIMIT {FEW + 1}"
)


def page(connection: Executor, wanted: Filter, limit: int) -> Page:
    """Return up to `limit` tasks that fit, newest first.

    Fewer if that many would need a look at more tasks or bytes than the limits above.
    """
    if wanted.is_empty:
        return Page([], None)
    values = _values(wanted)
    if wanted.ids is None and wanted.statuses and set(UNFINISHED).issuperset(wanted.statuses):
        unfinished = list(connection.execute(_FEW).scalars())
        values["ids"] = array(unfinished) if len(unfinished) <= FEW else None
    streams = []
    ends = []
    for stream in (_OURS,) if wanted.tags else (_OURS, _OTHERS):
        found, end = _read(connection, stream, values, limit)
        streams.append(found)
        if end is not None:
            ends.append(end)
    # A stream that stopped at its limit may have older tasks, which it has not read.
    horizon = max(ends, default=None)
    merged = merge(*streams, key=_position, reverse=True)
    known = (row for row in merged if horizon is None or _position(row) >= horizon)
    tasks = list(islice(known, limit))
    if len(tasks) == limit:
        return Page(tasks, _position(tasks[-1]))
    return Page(tasks, horizon)


def _read(
    connection: Executor, stream: _Stream, values: dict[str, Any], limit: int
) -> tuple[list[RowMapping], Position | None]:
    """Return a stream's next tasks, and where it stopped looking; None at its end.

    One statement reads both, because a purge may delete tasks between two.
    """
    seen, more = _source(stream, values)
    conditions = [text for name, text in _CONDITIONS.items() if values[name] is not None]
    statement = f"""
        {_AS_WRITTEN}
        WITH found AS (
            SELECT {_COLUMNS} FROM ({seen}) seen
            WHERE {" AND ".join([stream.condition, *conditions])}
            ORDER BY {stream.order} LIMIT :limit
        ), last AS (
            SELECT id, created_at FROM ({seen}) seen ORDER BY {stream.reverse} LIMIT 1
        )
        SELECT *, true AS fits FROM found
        UNION ALL
        SELECT id, NULL, NULL, NULL, created_at, NULL, NULL, false FROM last
        WHERE (SELECT count(*) FROM found) < :limit AND EXISTS ({more})
    """
    rows = connection.execute(text(statement), {**values, "limit": limit}).mappings().all()
    found = [row for row in rows if row["fits"]]
    if len(found) == limit:
        return found, _position(found[-1])
    if len(found) == len(rows):
        return found, None
    end = rows[-1]
    return found, _by_id(end["id"]) if stream is _OURS else _by_time(end)


def _source(stream: _Stream, values: dict[str, Any]) -> tuple[str, str]:
    """Return a query of the tasks to look at, and one that finds those after the last of them."""
    seen = f"SELECT * FROM tasks WHERE {stream.rows}"
    more = f"SELECT FROM tasks WHERE {stream.older}"
    if values["tags"] is not None:
        seen, more = _TAGGED, _MORE_TAGGED
    elif values["ids"] is not None:
        among = f"AND {_CONDITIONS['ids']}"
        seen, more = f"{seen} {among}", f"{more} {among}"
    seen = f"{seen} ORDER BY {stream.order} LIMIT {LOOKED_AT}"
    if values["text"] is not None:
        seen = f"""
            SELECT * FROM (
                SELECT *, sum({_BYTES}) OVER (
                    ORDER BY {stream.order} ROWS UNBOUNDED PRECEDING
                ) - {_BYTES} AS bytes_before FROM ({seen}) each
            ) sized WHERE bytes_before < {LOOKED_AT_BYTES}
        """
    return seen, more


def _position(row: RowMapping) -> Position:
    """Return the position of a task."""
    return _by_time(row) if time_of(row["id"]) is None else _by_id(row["id"])


def _by_id(task_id: UUID) -> Position:
    return Position((task_id.int >> 80) * 1000, task_id)


def _by_time(row: RowMapping) -> Position:
    return Position.at(row["created_at"])._replace(id=row["id"])


def _values(wanted: Filter) -> dict[str, Any]:
    """Return the parameters of a page's statements."""
    low = wanted.created_after or EPOCH
    before = wanted.before
    if wanted.created_before is not None:
        before = min(before, Position.at(wanted.created_before))
    lists = {
        "statuses": wanted.statuses,
        "tags": wanted.tags,
        "names": wanted.names,
    }
    return {
        **{name: None if values is None else list(set(values)) for name, values in lists.items()},
        "ids": None if wanted.ids is None else array(wanted.ids),
        "error": wanted.error,
        "text": wanted.text,
        "bound": min(before.bound(), OTHERS_FROM),
        "low": Position.at(low).bound(),
        "low_time": low,
        "time": before.moment(),
        "id": before.id,
    }
