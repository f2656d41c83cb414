"""Guards of the purge of old tasks."""

from __future__ import annotations

from .guard import Guard

TESTS = "tests/integration/test_purge.py"

GUARDS = [
    Guard(
        "a task that has not ended is never purged",
        "backend/db/purge.py",
        " AND state IN {one_of(ENDED)}\n",
        "\n",
        f"{TESTS}::test_a_task_that_has_not_ended_stays",
    ),
    Guard(
        "a clock that was set forward purges nothing early",
        "backend/db/purge.py",
        "least(now(), :now)",
        "greatest(now(), :now)",
        f"{TESTS}::test_a_task_is_old_only_by_both_clocks",
    ),
    Guard(
        "a purge reads each page once in a pass",
        "backend/db/purge.py",
        "    ctid >= CAST(:first AS tid) AND ctid",
        "    ctid",
        "tests/integration/test_purge_plans.py::test_a_pass_reads_rows_that_were_deleted_since_an"
        "_old_snapshot_once",
    ),
    Guard(
        "a batch of the purge is short if tasks are large",
        "backend/db/purge.py",
        "(SELECT place FROM measured WHERE before < {BATCH_BYTES})",
        "(SELECT place FROM measured)",
        f"{TESTS}::test_a_batch_of_large_tasks_ends_at_its_limit_of_bytes",
    ),
    Guard(
        "a purge does not wait for a locked task",
        "backend/db/purge.py",
        "{_OLD} FOR UPDATE SKIP LOCKED",
        "{_OLD} FOR UPDATE",
        f"{TESTS}::test_a_locked_task_stays_and_does_not_delay_the_others",
    ),
    Guard(
        "only one process purges at a time",
        "backend/db/purge.py",
        ":latest FOR UPDATE SKIP LOCKED",
        ":latest",
        f"{TESTS}::test_only_one_process_continues_a_pass_at_a_time",
    ),
    Guard(
        "a pass of the purge begins an hour after the last one",
        "backend/db/purge.py",
        "stored, pause = Progress(), PASS_INTERVAL",
        "stored = Progress()",
        f"{TESTS}::test_a_batch_waits_for_the_pause_and_a_pass_for_an_hour",
    ),
    Guard(
        "the purge goes on after PostgreSQL's clock was set back",
        "backend/db/purge.py",
        " OR due_at > now() + :latest",
        "",
        f"{TESTS}::test_a_pass_is_due_after_postgresqls_clock_was_set_back",
    ),
    Guard(
        "a purge pauses much longer than it works",
        "backend/maintenance/purge.py",
        "            stopping.wait(REST * took)",
        "            stopping.wait(0)",
        f"{TESTS}::test_the_purge_pauses_much_longer_than_it_works",
    ),
    Guard(
        "a purge logs one line for each pass",
        "backend/maintenance/purge.py",
        "            if progress.page is None:\n                self._log(progress)\n",
        "            self._log(progress)\n            if progress.page is None:\n",
        f"{TESTS}::test_a_pass_that_has_purged_tasks_logs_one_line",
    ),
    Guard(
        "tasks are kept unless RETENTION_DAYS is set",
        "backend/maintenance/reconciler.py",
        "        self._purge = None if days is None else Purge(days)",
        "        self._purge = Purge(days or 30)",
        f"{TESTS}::test_the_reconciler_starts_the_purge_only_if_retention_days_is_set",
    ),
    Guard(
        "tasks-api prune stops between two batches",
        "backend/maintenance/purge.py",
        "    while progress.page is not None and not stopping.is_set():",
        "    while progress.page is not None:",
        f"{TESTS}::test_a_purge_that_is_stopped_ends_after_its_batch",
    ),
]
