"""Idempotency keys: the first answer to a request, for as long as its client may repeat it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import text

from backend.db.session import changed_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.db.session import Executor


class Key(NamedTuple):
    """A client's key, the fingerprint of what it was sent with, and the answer given."""

    key: str
    fingerprint: str
    answer: str


# A key that another transaction is inserting is waited for. In order, so that two batches with the
# same keys cannot wait for each other.
_INSERT = text(
    """
    INSERT INTO idempotency_keys (key, fingerprint, answer)
    SELECT key, fingerprint, answer FROM unnest(
        CAST(:keys AS text[]), CAST(:fingerprints AS text[]), CAST(:answers AS text[])
    ) AS new (key, fingerprint, answer)
    ORDER BY key
    ON CONFLICT (key) DO NOTHING
    """
)
_FIND = text("SELECT key, fingerprint, answer FROM idempotency_keys WHERE key = ANY(:keys)")


def remember(connection: Executor, keys: Sequence[Key]) -> dict[str, Key]:
    """Store the keys that are new; return, for each key, what counts: the first that came."""
    new = {
        "keys": [key.key for key in keys],
        "fingerprints": [key.fingerprint for key in keys],
        "answers": [key.answer for key in keys],
    }
    found: dict[str, Key] = {}
    # An old key may be purged between the two statements: the second time it is a new one.
    for _ in range(2):
        connection.execute(_INSERT, new)
        found = find(connection, new["keys"])
        if found.keys() >= set(new["keys"]):
            break
    return found


def find(connection: Executor, keys: Sequence[str]) -> dict[str, Key]:
    """Return what is stored of those keys that have been used."""
    rows = connection.execute(_FIND, {"keys": list(keys)})
    return {row[0]: Key(*row) for row in rows}


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
    """Forget keys older than `hours`, 10,000 at most; return how many."""
    return changed_rows(connection.execute(_PURGE, {"hours": hours}))
