"""A task with a queue of its own."""

from __future__ import annotations

from pydantic import BaseModel

from backend.task import Run, task


class Report(BaseModel):
    """What the report is about."""

    about: str


@task(name="report", queue="reports")
def report(args: Report, run: Run) -> Report:  # noqa: ARG001 - a task's signature
    """Return the arguments."""
    return args
