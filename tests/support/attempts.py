"""Attempts as in a child process, but run in the test's process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backend.broker.wire import Delivery
from backend.worker.attempt.attempt import Attempt
from backend.worker.attempt.execute import run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from backend.task import Task
    from backend.worker.attempt.report import Report


def attempt_of(  # noqa: PLR0913 - the parts of a message
    spec: Task,
    task_id: str,
    *args: object,
    kwargs: Mapping[str, object] | None = None,
    external: bool = False,
    callbacks: bool = False,
    kind: type[Attempt] | None = None,
    worker: str = "w",
    queue: str = "tasks",
    attempt: int = 1,
) -> Attempt:
    """Return an attempt of a task, by default the first one; its worker is "w" by default."""
    delivery = Delivery(
        task_id, attempt, spec.name, args, kwargs or {}, None, None, queue, external, callbacks
    )
    return (kind or Attempt)(worker, delivery, spec)


def run_alone(spec: Task, task_id: str, *args: object, **options: Any) -> Report:
    """Run an attempt of a task; return the report to the parent process."""
    return run([attempt_of(spec, task_id, *args, **options)])


def run_together(spec: Task, task_ids: Sequence[str], arguments: str = "{}") -> Report:
    """Run the first attempts of short tasks as a batch; return the report."""
    return run([attempt_of(spec, each, arguments, queue="short_tasks") for each in task_ids])
