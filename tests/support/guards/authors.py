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
        "the text of a database error has no values",
        "backend/worker/failures.py",
        "    elif isinstance(error, (SQLAlchemyError, psycopg2.Error)):\n",
        "    elif isinstance(error, SQLAlchemyError):\n",
        "tests/integration/test_error_texts.py",
    ),
    Guard(
        "the text of a database error names the constraint",
        "backend/worker/failures.py",
        "    if violated := _violated(cause):\n",
        '    if violated := "":\n',
        "tests/integration/test_error_texts.py",
    ),
    Guard(
        "the text of an error has its type",
        "backend/worker/failures.py",
        "        if text and not isinstance(error, (Error, TimeUp)):",
        "        if False:",
        "tests/unit/test_failures.py",
    ),
    Guard(
        "the error of a time limit names the task's line",
        "backend/worker/parent/pool.py",
        "                current_line.ask(child.index, child.pid)\n",
        "                pass\n",
        "tests/acceptance/test_time_limits.py::test_the_line_is_the_tasks_own_also_while_it_waits"
        "_in_a_library",
    ),
    Guard(
        "a child is asked for its line before its time limit, not after it",
        "backend/worker/parent/pool.py",
        "hard and hard - _time_to_answer(hard)",
        "hard",
        "tests/unit/test_pool.py",
    ),
    Guard(
        "an old answer is not taken for that of a later attempt",
        "backend/worker/current_line.py",
        "    pipe.take()  # an answer about",
        "    # an answer about",
        "tests/unit/test_current_line.py",
    ),
    Guard(
        "neither the child nor the parent waits for a line",
        "backend/worker/current_line.py",
        "            os.set_blocking(end, False)\n",
        "            pass\n",
        "tests/unit/test_current_line.py::test_neither_the_child_nor_the_parent_waits_for_the"
        "_other",
    ),
    Guard(
        "a test of a task needs no broker",
        "backend/settings.py",
        "    return read().database_url or settings().database_url\n",
        "    return settings().database_url\n",
        "tests/integration/test_testing.py",
    ),
]
