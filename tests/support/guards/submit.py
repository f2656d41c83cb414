"""Guards of tasks that SQL or another task submits."""

from __future__ import annotations

from .guard import Guard

FUNCTION = "backend/db/migrations/versions/0013_tasks_submit.py"
LONG = (
    "tests/integration/test_submit.py::test_a_task_of_a_long_transaction_is_taken_at_once_after"
    "_its_commit"
)
ATTEMPTS = "tests/integration/test_submitted_attempts.py"

GUARDS = [
    Guard(
        "11: a task submits another in the transaction of its writes",
        "backend/task.py",
        "        return submit(self.session, spec.name, arguments)\n",
        "        with transaction() as connection:\n"
        "            return submit(connection, spec.name, arguments)\n",
        "tests/integration/test_run_submit.py",
    ),
    Guard(
        "11: tasks_submit writes ledger row and outbox row together",
        FUNCTION,
        "    INSERT INTO outbox (task_id, due_at) VALUES (new_id, accepted);\n",
        "",
        "tests/integration/test_submit.py::test_a_task_exists_after_the_commit_of_the_callers"
        "_transaction_only",
    ),
    Guard(
        "11: tasks_submit wakes the relays",
        FUNCTION,
        "    PERFORM pg_notify('outbox', '');\n",
        "",
        "tests/integration/test_submit.py::test_the_commit_wakes_the_relays",
    ),
    Guard(
        "11: tasks_submit uses the service's tables, whatever the search_path is",
        FUNCTION,
        " SET search_path = {schema}, pg_temp",
        "",
        "tests/integration/test_submit.py::test_a_role_needs_only_the_rights_that_tasks_md_names"
        "_and_no_search_path",
    ),
    Guard(
        "11: tasks_submit takes no more bytes than the API",
        FUNCTION,
        "> 1048576",
        "> 10485760",
        "tests/integration/test_submit.py::test_sql_with_bad_input_gets_a_clear_error_and_stores"
        "_nothing",
    ),
    Guard(
        "9: a worker reads the arguments that were submitted",
        "backend/submit.py",
        "    if not same:\n",
        "    if False:\n",
        "tests/integration/test_submit.py::test_arguments_that_a_worker_would_not_get_are_refused"
        "_and_the_transaction_goes_on",
    ),
    Guard(
        "10: a bound does not rise past a transaction that has submitted a task",
        "backend/db/bounds.py",
        "min(now, oldest or now)",
        "now",
        LONG,
    ),
    Guard(
        "10: tasks_submit shows the time of the call until the transaction ends",
        FUNCTION,
        "    PERFORM pg_advisory_xact_lock_shared(80600011, CAST(milliseconds / 60000 AS int));\n",
        "",
        LONG,
    ),
    Guard(
        "10: a submitted task has the time of the call",
        FUNCTION,
        "timestamptz := clock_timestamp();",
        "timestamptz := now();",
        LONG,
    ),
    Guard(
        "11: a claim stores the attempts that the task declares",
        "backend/db/ledger.py",
        "progress = NULL,\n            max_attempts = {MAX_ATTEMPTS_OF}\n",
        "progress = NULL\n",
        ATTEMPTS,
    ),
    Guard(
        "11: an error in a child process counts against what the task declares",
        "backend/worker/attempt/attempt.py",
        "                declared=self.spec.max_attempts,\n                # If",
        "                # If",
        ATTEMPTS,
    ),
    Guard(
        "11: a lost process counts against what the task declares",
        "backend/worker/parent/unreported.py",
        "declared=spec.max_attempts,\n            delay=delay,\n",
        "delay=delay,\n",
        ATTEMPTS,
    ),
    Guard(
        "11: an attempt without cost before the first claim is not counted",
        "backend/db/ledger.py",
        "WHEN :free AND max_attempts > 0 THEN",
        "WHEN :free THEN",
        ATTEMPTS,
    ),
    Guard(
        "11: a repair before the first claim is not counted",
        "backend/db/repairs.py",
        "CASE max_attempts WHEN 0 THEN 0 ELSE max_attempts + 1 END",
        "max_attempts + 1",
        ATTEMPTS,
    ),
    Guard(
        "2: an error of another attempt does not change what a task declares",
        "backend/db/locked.py",
        "WHERE id = :id AND attempt = :attempt AND {NOT_ENDED} RETURNING max_attempts",
        "WHERE id = :id RETURNING max_attempts",
        ATTEMPTS,
    ),
]
