"""Tasks of which few run at once. Each writes to the database when it begins and ends."""

from __future__ import annotations

import time

from pydantic import BaseModel
from sqlalchemy import text

from backend.db.session import transaction
from backend.task import Run, task

# A row for each attempt that has begun; `at_once` is how many had begun and not ended by then.
TABLE = """
    CREATE TABLE runs (
        task_id uuid, attempt int, customer text, pid int, at_once int,
        began timestamptz DEFAULT clock_timestamp(), ended timestamptz
    )
"""


class Visit(BaseModel):
    """What a limited task does."""

    seconds: float = 0
    customer: str = ""
    write: bool = False
    fail: bool = False


@task(name="limited", max_running=3)
def limited(args: Visit, run: Run) -> Visit:
    """Run, of which three do at once."""
    return _visit(args, run)


@task(name="fair", max_running=2, per="customer")
def fair(args: Visit, run: Run) -> Visit:
    """Run, of which two do at once for each customer."""
    return _visit(args, run)


def _visit(args: Visit, run: Run) -> Visit:
    with transaction() as connection:
        # One after the other, so that each counts those before it.
        connection.execute(text("LOCK TABLE runs"))
        connection.execute(
            text(
                "INSERT INTO runs (task_id, attempt, customer, pid, at_once)"
                " SELECT :id, :attempt, :customer, pg_backend_pid(), 1 + count(*) FROM runs r"
                " JOIN tasks t ON t.id = r.task_id AND t.attempt = r.attempt"
                " WHERE r.ended IS NULL AND t.state = 'STARTED' AND r.customer = :customer"
            ),
            {"id": run.task_id, "attempt": run.attempt, "customer": args.customer},
        )
    time.sleep(args.seconds)
    end = text(
        "UPDATE runs SET ended = clock_timestamp() WHERE task_id = :id AND attempt = :attempt"
    )
    ours = {"id": run.task_id, "attempt": run.attempt}
    if args.write:
        run.session.execute(end, ours)
    else:
        with transaction() as connection:
            connection.execute(end, ours)
    if args.fail and run.attempt == 1:
        raise ValueError("the first attempt fails")
    return args


@task(name="leave")
def leave(args: Visit, run: Run) -> Visit:
    """Leave a row through the session; without a limit."""
    run.session.execute(
        text("INSERT INTO runs (task_id, attempt, customer) VALUES (:id, :attempt, 'left')"),
        {"id": run.task_id, "attempt": run.attempt},
    )
    return args
