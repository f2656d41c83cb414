"""`python -m backend` is the `tasks-api` command."""

from backend.cli import main

main()
