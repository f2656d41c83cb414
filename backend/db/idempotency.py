"""Idempotency keys: the tasks of a request, for as long as its client may repeat it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import text

from backend.db.fragments import array
from backend.db.session import changed_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.db.session import Executor


class KeyUse(NamedTuple):
    """A client's key, the fingerprint of the first request with it, and the ids of its tasks.

    `answer` is written for replicas of the previous version; here only `_FIND` reads it. The next
    release will not write it, and the release after that will drop the column.
    """

    key: str
    fingerprint: str
    ids: list[str]
    answer: str = ""


# Waits for a transaction that is inserting the same key. Keys are sorted, so two batches with the
# same keys cannot deadlock.
_INSERT = text(
    """
    INSERT INTO idempotency_keys (key, fingerprint, ids, answer)
    SELECT key, fingerprint, CAST(ids AS uuid[]), answer FROM unnest(
        CAST(:keys AS text[]), CAST(:fingerprints AS text[]), CAST(:ids AS text[]),
        CAST(:answers AS text[])
    ) AS new (key, fingerprint, ids, answer)
    ORDER BY key
    ON CONFLICT (key) DO NOTHING
    """
)
# The previous version stored no ids: they are in the answer.
_FIND = text(
    """
    SELECT key, fingerprint, coalesce(
        CAST(ids AS text[]),
        ARRAY(SELECT found[1] FROM regexp_matches(answer, '"task_id":"([0-9a-f-]{36})"', 'g') found)
    ) AS ids
    FROM idempotency_keys WHERE key = ANY(:keys)
    """
)


def remember(connection: Executor, keys: Sequence[KeyUse]) -> dict[str, KeyUse]:
    """Store the keys that are new; return, for each key, what its first request has stored."""
    new = {
        "keys": [key.key for key in keys],
        "fingerprints": [key.fingerprint for key in keys],
        "ids": [array(key.ids) for key in keys],
        "answers": [key.answer for key in keys],
    }
    found: dict[str, KeyUse] = {}
    # An old key may be purged between the two statements: the second time it is a new one.
    for _ in range(2):
        connection.execute(_INSERT, new)
        found = find(connection, new["keys"])
        if found.keys() >= set(new["keys"]):
            break
    return found


def find(connection: Executor, keys: Sequence[str]) -> dict[str, KeyUse]:
    """Return what is stored for those of the keys that were used."""
    rows = connection.execute(_FIND, {"keys": list(keys)})
    return {row.key: KeyUse(row.key, row.fingerprint, row.ids) for row in rows}


_PURGE = text(
    """
    DELETE FROM idempotency_keys WHERE key IN (
        SELECT key FROM idempotency_keys
        WHERE created_at < now() - make_interval(hours => :hours)
        LIMIT 10000 FOR UPDATE SKIP LOCKED
    )
    """
)


def purge(connection: Executor, hours: int) -> int:
    """Delete keys older than `hours`, 10,000 at most; return how many."""
    return changed_rows(connection.execute(_PURGE, {"hours": hours}))
