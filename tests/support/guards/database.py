"""Guards of connections, transactions, migrations and notifications."""

from __future__ import annotations

from .guard import Guard

GUARDS = [
    Guard(
        "a database that is not UTF8 stores no text that a result could not repeat",
        "backend/db/ledger.py",
        "to_json(rows, ensure_ascii=True)",
        "to_json(rows)",
        "tests/acceptance/test_databases.py::test_a_database_that_is_not_utf_8_is_reported"
        "_without_showing_any_content[SQL_ASCII]",
    ),
    Guard(
        "connections to a read-only PostgreSQL are discarded",
        "backend/db/session.py",
        "        context.is_disconnect = True\n        for made in _engines():\n"
        "            made.dispose()\n",
        "        pass\n",
        "tests/acceptance/test_read_only.py::test_a_read_only_postgresql_costs_no_attempt_and"
        "_each_write_route_reports_it[by_default]",
    ),
    Guard(
        "a broken connection of a listener is reported as an outage",
        "backend/db/listen.py",
        "        with store_errors():\n            self._connection.close()",
        "        self._connection.close()",
        "tests/unit/test_listen.py",
    ),
    Guard(
        "a process waits for the migration lock outside of statements",
        "backend/db/migrate.py",
        "SELECT pg_try_advisory_xact_lock({_LOCK})",
        "SELECT pg_advisory_xact_lock({_LOCK}) IS NOT NULL",
        "tests/integration/test_migrate_index.py::test_no_process_waits_inside_a_statement_while"
        "_another_builds_an_index",
    ),
    Guard(
        "statements that a killed migration left running are ended",
        "backend/db/migrate.py",
        "        leases.break_connections(lock, _NAME)\n",
        "",
        "tests/integration/test_migrate_index.py::test_a_migration_may_exceed_the_limits_and_is"
        "_repeated_after_a_kill",
    ),
    Guard(
        "a migration has no statement timeout",
        "backend/db/migrate.py",
        "SET LOCAL statement_timeout = 0; ",
        "",
        "tests/integration/test_migrate_index.py::test_migrations_work_through_a_pooler_with_any"
        "_limits_of_the_role",
    ),
    Guard(
        "the migration lock has no idle timeout",
        "backend/db/migrate.py",
        "SET LOCAL idle_in_transaction_session_timeout = 0;",
        "",
        "tests/integration/test_migrate_index.py::test_a_migration_may_exceed_the_limits_and_is"
        "_repeated_after_a_kill",
    ),
    Guard(
        "a pooler that refuses startup options can be used",
        "backend/db/connection.py",
        'if "options" not in str(error):',
        'if "options" in str(error):',
        "tests/integration/test_migrate_index.py::test_migrations_work_through_a_pooler_with_any"
        "_limits_of_the_role",
    ),
    Guard(
        "LISTEN is not used through a pooler",
        "backend/db/listen.py",
        "pooled = behind_pooler(connection)",
        "pooled = False",
        "tests/acceptance/test_pooler.py::test_a_process_logs_once_what_a_pooler_does_not_support",
    ),
    Guard(
        "a task's own queries use the default planner settings",
        "backend/db/connection.py",
        '    "timezone": "UTC",\n',
        '    "timezone": "UTC",\n    "enable_bitmapscan": "off",\n',
        "tests/integration/test_session.py",
    ),
    Guard(
        "the service's own queries read a burst in index order",
        "backend/db/session.py",
        '"SET LOCAL enable_bitmapscan = off;"',
        '"SET LOCAL enable_bitmapscan = on;"',
        "tests/integration/test_session.py",
    ),
    Guard(
        "a setting for one statement ends with it",
        "backend/db/session.py",
        '"SET LOCAL enable_bitmapscan = off;"',
        '"SET enable_bitmapscan = off;"',
        "tests/integration/test_session.py",
    ),
    Guard(
        "14: a truncate waits while message counts are added up",
        "backend/db/migrations/versions/0005_scan_bounds_and_clock.py",
        'forget="TRUNCATE message_counts"',
        'forget="DELETE FROM message_counts"',
        "tests/integration/test_messages.py",
    ),
    Guard(
        "3: a statement that would end a task's transaction is refused",
        "backend/db/transaction_policy.py",
        "        if self.active:\n            self._refuse(\n",
        "        if False:\n            self._refuse(\n",
        "tests/integration/test_task_session.py",
    ),
    Guard(
        "3: SQL of a task is checked before it is executed",
        "backend/db/transaction_policy.py",
        "        self._check(query)\n        super().execute(query, vars)\n",
        "        super().execute(query, vars)\n",
        "tests/integration/test_task_session.py",
    ),
    Guard(
        "3: a refused statement fails the task even if it catches the error",
        "backend/db/transaction_policy.py",
        "        if self.refused is not None:\n            raise self.refused\n",
        "",
        "tests/integration/test_task_session.py",
    ),
    Guard(
        "3: a task that continues after a rollback fails",
        "backend/db/transaction_policy.py",
        "            self.policy.rolled_back = True\n",
        "            pass\n",
        "tests/integration/test_task_session.py",
    ),
    Guard(
        "3: a task that continues after a failed statement fails",
        "backend/db/transaction_policy.py",
        "self.rolled_back or status == extensions.TRANSACTION_STATUS_INERROR",
        "self.rolled_back",
        "tests/integration/test_task_session.py",
    ),
    Guard(
        "3: the connection is closed after a refused statement",
        "backend/db/transaction_policy.py",
        "        self.discard_connection = True\n        raise",
        "        raise",
        "tests/integration/test_task_session.py",
    ),
    Guard(
        "3: a connection with session state of a task is closed",
        "backend/db/transaction_policy.py",
        "    if policy.discard_connection:\n",
        "    if False:\n",
        "tests/integration/test_task_settings.py",
    ),
    Guard(
        "options that a pooler drops are an error",
        "backend/db/connection.py",
        "        if needed and not mark:\n            raise OptionsDropped\n",
        "",
        "tests/acceptance/test_databases.py::test_options_that_a_pooler_drops_are_an_error_even_if"
        "_the_role_has_all_limits",
    ),
    Guard(
        "options that a pooler drops are an error for later connections too",
        "backend/db/connection.py",
        "    if not (first or needed):\n",
        "    if not first:\n",
        "tests/acceptance/test_databases.py::test_options_that_a_pooler_drops_are_an_error_for"
        "_later_connections_too",
    ),
    Guard(
        "9: a fork of a task's process does not use its connection",
        "backend/db/transaction_policy.py",
        "        return os.getpid() != self._pid\n",
        "        return False\n",
        "tests/acceptance/test_processes_in_tasks.py::test_a_fork_of_a_tasks_process_reports"
        "_nothing_and_does_not_use_its_connection",
    ),
]
