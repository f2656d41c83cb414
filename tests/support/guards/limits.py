"""Guards of limits (`max_running`) and of the process for short tasks."""

from __future__ import annotations

from .guard import Guard

FILE = "backend/db/limits.py"
TESTS = "tests/integration/test_limits.py::"

GUARDS = [
    Guard(
        "2: two claims do not both get the last place of a limit",
        FILE,
        '    connection.execute(_LOCK, {"key": limit.key})\n    running = ',
        "    running = ",
        TESTS + "test_two_claims_at_once_do_not_both_get_the_last_place",
    ),
    Guard(
        "4: no attempt is parked while the last running one ends",
        FILE,
        '    connection.execute(_LOCK, {"key": limit.key})\n    yield\n',
        "    yield\n",
        TESTS + "test_a_claim_while_the_last_attempt_ends_gets_its_place",
    ),
    Guard(
        "10: an end makes the next parked row due in its transaction",
        FILE,
        "    yield\n    _release(connection, [limit])\n",
        "    yield\n",
        TESTS + "test_an_end_makes_the_oldest_parked_row_due_in_its_transaction",
    ),
    Guard(
        "2: a released row counts as running until it is claimed",
        FILE,
        "SELECT count(*) FROM outbox WHERE limit_key = key AND due_at < 'infinity'",
        "SELECT 0",
        TESTS + "test_a_released_row_takes_a_place_until_it_is_claimed",
    ),
    Guard(
        "2: a claim whose answer was lost does not count against itself",
        FILE,
        " AND id <> CAST(:id AS uuid)",
        " AND CAST(:id AS uuid) IS NOT NULL",
        TESTS + "test_a_claim_whose_answer_was_lost_does_not_count_against_itself",
    ),
    Guard(
        "4: the reconciler makes parked rows due that nothing else will",
        "backend/maintenance/parked.py",
        "limits.release(connection, _limits(keys))",
        "_limits(keys)",
        TESTS + "test_the_reconciler_makes_parked_rows_due_that_nothing_else_will",
    ),
    Guard(
        "10: a row that a long transaction makes due has the time of that moment",
        FILE,
        "SET due_at = clock_timestamp()",
        "SET due_at = now()",
        TESTS + "test_a_row_that_a_long_transaction_makes_due_has_the_time_of_that_moment",
    ),
    Guard(
        "10: a locked limit does not delay the tasks of others",
        FILE,
        "pg_try_advisory_xact_lock(hashtextextended(key, 0))",
        "pg_advisory_xact_lock(hashtextextended(key, 0)) IS NOT NULL",
        TESTS + "test_a_locked_key_does_not_delay_the_rows_of_others",
    ),
    Guard(
        "2: arguments whose JSON text differs between processes cannot be counted",
        "backend/task_checks.py",
        " and _is_plain(field.annotation)",
        "",
        "tests/unit/test_task_options.py",
    ),
    Guard(
        "5: a batch of which all is parked does not end the relay's connection",
        "backend/relay/relay.py",
        "            if messages:  # none if all were parked\n                publisher",
        "            if True:\n                publisher",
        "tests/acceptance/test_limits.py::test_an_end_lets_the_next_one_run_without_the_reconciler",
    ),
    Guard(
        "7: short tasks do not wait for ordinary ones",
        "backend/worker/parent/ordinary.py",
        "return max(1, processes - 1)",
        "return processes",
        "tests/acceptance/test_isolation.py::"
        "test_messages_do_not_wait_for_the_slow_tasks_before_them",
    ),
]
