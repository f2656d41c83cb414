"""The workers' leases, on PostgreSQL's clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backend.db.session import Executor

# A worker renews every RENEW_SECONDS and counts as dead LEASE_SECONDS after its last renewal.
RENEW_SECONDS = 2.0
LEASE_SECONDS = 10.0

_RENEW = text(
    """
    INSERT INTO workers (name, renewed_at, expires_at, holds)
    VALUES (:name, now(), now() + make_interval(secs => :seconds), :holds)
    ON CONFLICT (name) DO UPDATE SET
        renewed_at = excluded.renewed_at, expires_at = excluded.expires_at, holds = excluded.holds
    """
)
_LOST = text(
    """
    SELECT held FROM unnest(CAST(:holds AS text[])) AS held
    JOIN tasks t ON t.id = CAST(split_part(held, '/', 1) AS uuid)
    WHERE t.attempt > CAST(split_part(held, '/', 2) AS int) OR t.state IN ('FAILURE', 'REVOKED')
    """
)


def renew(connection: Executor, name: str, held: Callable[[], Sequence[str]]) -> list[str]:
    """Renew a lease; return what it holds (each id/attempt) and should not: ended or superseded.

    `held` is asked within the transaction: what is claimed later than `renewed_at` may be missing.
    """
    connection.execute(text("SELECT 1"))  # now(), and so `renewed_at`, is from here
    holds = held()
    connection.execute(_RENEW, {"name": name, "seconds": LEASE_SECONDS, "holds": list(holds)})
    return list(connection.execute(_LOST, {"holds": list(holds)}).scalars())


def end(connection: Executor, name: str) -> None:
    """End a lease: the worker has stopped."""
    connection.execute(text("DELETE FROM workers WHERE name = :name"), {"name": name})


def leased(connection: Executor, name: str) -> bool:
    """Tell whether a worker's lease runs."""
    found = text("SELECT EXISTS (SELECT FROM workers WHERE name = :name AND expires_at > now())")
    return bool(connection.execute(found, {"name": name}).scalar())


_FENCE = text(
    """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE application_name = left(:name, 63) AND datname = current_database()
        AND usename = current_user AND pid <> pg_backend_pid()
        -- An idle one holds no locks, and a pooler may be about to give it to another client.
        AND state <> 'idle'
    """
)


def fence(connection: Executor, name: str) -> None:
    """Break the connections of a dead worker, whose open transactions may hold locks."""
    connection.execute(_FENCE, {"name": name})


def alive(connection: Executor) -> list[str]:
    """Return the names of the workers whose lease runs."""
    rows = connection.execute(text("SELECT name FROM workers WHERE expires_at > now()"))
    return list(rows.scalars())


def forget_dead(connection: Executor) -> None:
    """Delete leases that ran out an hour ago."""
    connection.execute(text("DELETE FROM workers WHERE expires_at < now() - interval '1 h'"))
