"""The activity line of a worker: counts since the last line, none when idle."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
from celery.worker import state

from backend.worker.parent import activity

if TYPE_CHECKING:
    from collections.abc import Iterator


class Request:
    """The part of Celery's request that the counters need."""

    def __init__(self, number: int) -> None:
        self.id = str(number)
        self.name = "a task"


@pytest.fixture(autouse=True)
def _no_requests() -> Iterator[None]:
    state.reset_state()
    yield
    state.reset_state()


def test_the_activity_line_counts_ended_tasks_and_is_not_logged_when_idle(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    log = activity.ActivityLog()
    requests = [Request(number) for number in range(5)]
    for request in requests:
        state.task_reserved(request)
    log.report()
    for request in requests[:3]:
        state.task_accepted(request)
    state.task_ready(requests[0])
    activity.count_failure()
    log.report()
    log.report()
    for request in requests[1:]:
        state.task_ready(request)
    log.report()
    log.report()
    assert caplog.messages == [
        "tasks: 1 ended, 1 failed, 2 running, 2 waiting in this worker",
        "tasks: 0 ended, 0 failed, 2 running, 2 waiting in this worker",
        "tasks: 2 ended, 0 failed, 0 running, 0 waiting in this worker",
    ]
