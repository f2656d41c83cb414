"""Guards of what the authors of tasks use: the types of `@task`, tests of tasks, error texts."""

from __future__ import annotations

from .guard import Guard

GUARDS = [
    Guard(
        "a decorated task keeps its own type",
        "backend/task.py",
        ") -> Callable[[Declared], Declared]:\n",
        ") -> Callable[[Function], Function]:\n",
        "tests/unit/test_task_types.py",
    ),
    Guard(
        "a test runs a task with the arguments that JSON leaves of them",
        "backend/testing.py",
        "    if read != arguments:\n",
        "    if False:\n",
        "tests/unit/test_testing.py",
    ),
    Guard(
        "a test refuses a value that a worker refuses",
        "backend/testing.py",
        "            as_json(value)\n",
        "",
        "tests/unit/test_testing.py",
    ),
    Guard(
        "a test of a task needs a database only when the task uses its session",
        "backend/testing.py",
        "        super().__init__(connection, None",
        "        super().__init__(connection or engine(), None",
        "tests/unit/test_testing.py",
    ),
    Guard(
        "a test of a task commits only a savepoint of the test's connection",
        "backend/testing.py",
        "        if not connection.in_transaction():\n            connection.begin()\n",
        "",
        "tests/integration/test_testing.py",
    ),
    Guard(
        "a task that raises in a test leaves no writes",
        "backend/testing.py",
        '        self.join_transaction_mode = "create_savepoint"\n',
        "",
        "tests/integration/test_testing.py",
    ),
    Guard(
        "a task whose arguments no longer fit is retried",
        "backend/call.py",
        "        raise ArgumentsDoNotFit(f",
        "        raise TaskError(f",
        "tests/integration/test_arguments_that_no_longer_fit.py",
    ),
    Guard(
        "a test of a task needs no broker",
        "backend/settings.py",
        "    return read().database_url or settings().database_url\n",
        "    return settings().database_url\n",
        "tests/integration/test_testing.py",
    ),
]
