"""Parts of statements that change the ledger, shared by ledger.py and locked.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.db.records import LAST_ATTEMPT, Claim
from backend.states import ENDED, STARTED, one_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy import TextClause

    from backend.db.session import Executor

# The same as models.IS_UNFINISHED, but only the primary key's index can be used. With `state IN`
# the index of unfinished tasks could be used too: with old statistics, PostgreSQL would read all of
# it to find one task.
NOT_ENDED = f"tasks.state NOT IN {one_of(ENDED)}"
# The priority in the outbox of a row of tasks; null for the usual one.
PRIORITY_OF = "CAST(options ->> 'priority' AS smallint)"
# PENDING or RETRY.
_WAITING = f"{NOT_ENDED} AND tasks.state <> '{STARTED}'"

# A task that tasks_submit has stored (migration 0013) has max_attempts 0 until its first claim or
# error, because PostgreSQL does not know what it declares. Attempts before that are not counted.
MAX_ATTEMPTS_OF = (
    f"CASE max_attempts WHEN 0 THEN least(:declared + attempt - 1, {LAST_ATTEMPT})"
    " ELSE max_attempts END"
)
# True in the transaction whose now() is :began, or without :began. False: the task has ended its
# transaction and another has begun.
SAME_TRANSACTION = "now() = coalesce(CAST(:began AS timestamptz), now())"


def array(values: Iterable[str | int]) -> str:
    """Return an array of ids or numbers as PostgreSQL writes it.

    PostgreSQL and psycopg2 take several times as long for a list of parameters.
    """
    return f"{{{','.join(map(str, values))}}}"


def arrays(attempts: Mapping[str, int]) -> dict[str, str]:
    """Return the parameters `ids` and `attempts` of a statement, for attempts by task id."""
    return {"ids": array(attempts), "attempts": array(attempts.values())}


def lock_waiting(option: str = "") -> str:
    """Return a CTE that locks the rows of attempts which wait, in order of id.

    `option`: what follows FOR UPDATE. The parameters are those of `claim_rows`.
    """
    # A lookup for each task takes half as long as a join, which reads a small table completely.
    return f"""
    claimed AS (
        SELECT locked.id FROM (
            SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:attempts AS smallint[]))
                AS wanted (id, attempt)
            ORDER BY id
        ) wanted CROSS JOIN LATERAL (
            SELECT id FROM tasks
            WHERE id = wanted.id AND attempt = wanted.attempt AND {_WAITING}
                AND (expires_at IS NULL OR :in_time OR expires_at > now())
            FOR UPDATE {option}
        ) locked
    )
    """


CLAIMED = """
    SELECT array_agg(CAST(id AS text)), now(), CAST(pg_current_xact_id() AS text),
        EXISTS (SELECT FROM workers WHERE name = :worker)
    FROM claimed
"""
# Makes an UPDATE of several tasks look up each of them, until the transaction ends. A join would
# read the whole table while the table is small.
ROW_BY_ROW = "SET LOCAL enable_seqscan = off;"


def claim_rows(
    statement: TextClause,
    connection: Executor,
    attempts: Mapping[str, int],
    worker: str,
    **values: object,
) -> Claim:
    """Execute a statement that ends with CLAIMED; return what it has claimed."""
    values = {**arrays(attempts), "worker": worker, "in_time": False, **values}
    row = connection.execute(statement, values)
    ids, began, transaction_id, leased = row.one()
    return Claim(frozenset(ids or ()), began, transaction_id, leased)
