"""`python -m backend` is the `tasks-api` command."""

from backend.cli import main

if __name__ == "__main__":
    main()
