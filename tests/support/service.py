"""`python -m tests.support.service` is the `tasks-api` command with the tests' own tasks."""

import tests.support.tasks  # noqa: F401 - registers them
from backend.cli import main

if __name__ == "__main__":
    main()
