"""The workers' leases, on PostgreSQL's clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    WHERE t.attempt > CAST(split_part(held, '/', 2) AS int) OR t.state = 'REVOKED'
    """
)


def renew(connection: Executor, name: str, holds: Sequence[str]) -> list[str]:
    """Renew a lease; return those of `holds` (each id/attempt) that were revoked or superseded."""
    connection.execute(_RENEW, {"name": name, "seconds": LEASE_SECONDS, "holds": list(holds)})
    return list(connection.execute(_LOST, {"holds": list(holds)}).scalars())


def end(connection: Executor, name: str) -> None:
    """End a lease: the worker has stopped."""
    connection.execute(text("DELETE FROM workers WHERE name = :name"), {"name": name})


def alive(connection: Executor) -> list[str]:
    """Return the names of the workers whose lease runs."""
    rows = connection.execute(text("SELECT name FROM workers WHERE expires_at > now()"))
    return list(rows.scalars())


def forget_dead(connection: Executor) -> None:
    """Delete leases that ran out an hour ago."""
    connection.execute(text("DELETE FROM workers WHERE expires_at < now() - interval '1 h'"))
