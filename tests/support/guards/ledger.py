"""Guards of the ledger's statements: tasks, leases, the outbox and the bounds of scans."""

from __future__ import annotations

from .guard import Guard

GUARDS = [
    Guard(
        "1: ledger row and outbox row are written together",
        "backend/db/ledger.py",
        "INSERT INTO outbox (task_id) SELECT id FROM new ORDER BY id",
        "SELECT 1",
        "tests/integration/test_ledger.py::test_a_submission_writes_both_rows_or_none",
    ),
    Guard(
        "a lone short task that runs long is not published again",
        "backend/db/locked.py",
        " if len(attempts) == 1 else _HOLD\n",
        " if not attempts else _HOLD\n",
        "tests/integration/test_outbox.py",
    ),
    Guard(
        "2: a claim succeeds only for the current attempt",
        "backend/db/fragments.py",
        "wanted.id AND attempt = wanted.attempt AND",
        "wanted.id AND",
        "tests/integration/test_ledger.py",
    ),
    Guard(
        "2: an ended task does not succeed again",
        "backend/db/ledger.py",
        "{row}attempt AND {NOT_ENDED}",
        "{row}attempt",
        "tests/integration/test_ledger.py",
    ),
    Guard(
        "2: an ended task does not fail",
        "backend/db/ledger.py",
        "ELSE {NOT_ENDED} END",
        "ELSE true END",
        "tests/integration/test_ledger.py",
    ),
    Guard(
        "2: a worker cannot end an attempt of another worker",
        "backend/db/ledger.py",
        "THEN tasks.worker = :worker ELSE",
        "THEN true ELSE",
        "tests/integration/test_ledger.py",
    ),
    Guard(
        "2: several tasks are looked up by index, one by one",
        "backend/db/fragments.py",
        "SET LOCAL enable_seqscan = off;",
        "",
        "tests/integration/test_plans.py",
    ),
    Guard(
        "3: a batch is claimed before its tasks run",
        "backend/db/fragments.py",
        " AND {_WAITING}\n                AND (",
        " AND (",
        "tests/integration/test_batches.py",
    ),
    Guard(
        "3: whether a worker is alive does not depend on a clock",
        "backend/db/leases.py",
        '(SELECT FROM workers WHERE name = :name)")',
        '(SELECT FROM workers WHERE name = :name AND expires_at > now())")',
        "tests/integration/test_leases.py::test_a_lease_does_not_depend_on_the_clock",
    ),
    Guard(
        "3: a worker that renewed its lease meanwhile is not declared dead",
        "backend/db/leases.py",
        "renewed_at IS DISTINCT FROM CAST(:renewed_at AS timestamptz)",
        "false",
        "tests/integration/test_leases.py::test_a_worker_that_renewed_meanwhile_is_not_declared"
        "_dead",
    ),
    Guard(
        "the bytes that a relay takes at once are limited",
        "backend/db/outbox.py",
        "FROM measured WHERE before < :bytes",
        "FROM measured WHERE :bytes > 0",
        "tests/integration/test_bundles.py",
    ),
    Guard(
        "4: only tasks overtaken by newer ones are published again, not a backlog",
        "backend/db/lost_messages.py",
        "                AND started_at > created_at AND created_at <= now() AND name",
        "                AND created_at <= now() AND name",
        "tests/integration/test_outbox.py::test_an_external_task_is_no_sign_that_others_were"
        "_overtaken",
    ),
    Guard(
        "10: a scan reads no rows below its bound",
        "backend/db/bounds.py",
        "coalesce((SELECT {bound} FROM scan_bounds), '-infinity')",
        "timestamptz '-infinity'",
        "tests/integration/test_bounds.py::test_a_scan_skips_tasks_that_ended_since_an_old"
        "_snapshot",
    ),
    Guard(
        "10: putting a row back lowers the bound",
        "backend/db/outbox.py",
        "            {LOWER_DUE_FROM}\n        )\n        SELECT count",
        "            SELECT FROM back\n        )\n        SELECT count",
        "tests/integration/test_bounds_races.py",
    ),
    Guard(
        "10: the bounds are locked before the rows are read",
        "backend/db/bounds.py",
        'LOCK = "SELECT FROM scan_bounds FOR UPDATE; "',
        'LOCK = ""',
        "tests/integration/test_bounds_races.py",
    ),
    Guard(
        "10: a bound is at least a minute before now",
        "backend/db/bounds.py",
        "least(:now, now()) - interval '1 min'\"",
        "least(:now, now()) + interval '1 s'\"",
        "tests/integration/test_bounds_races.py::test_a_submission_that_commits_late_is_not_missed",
    ),
    Guard(
        "installations: only one of several processes warns about stray messages",
        "backend/db/leases.py",
        "    WHERE name = :name FOR UPDATE\n",
        "    WHERE name = :name\n",
        "tests/integration/test_stray_messages.py",
    ),
    Guard(
        "10: statements about some tasks use an index",
        "backend/db/fragments.py",
        'NOT_ENDED = f"tasks.state NOT IN {one_of(ENDED)}"',
        "NOT_ENDED = \"tasks.state IN ('PENDING', 'STARTED', 'RETRY')\"",
        "tests/integration/test_plans.py",
    ),
    Guard(
        "3: an outcome is written only in the transaction of the task's writes",
        "backend/db/fragments.py",
        "now() = coalesce(CAST(:began AS timestamptz), now())",
        "CAST(:began AS timestamptz) IS NOT DISTINCT FROM :began",
        "tests/integration/test_task_session.py",
    ),
    Guard(
        "3: settings of one task do not affect the next",
        "backend/db/ledger.py",
        "    RESET ROLE; RESET ALL;\n",
        "",
        "tests/integration/test_task_settings.py",
    ),
]
