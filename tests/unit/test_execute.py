"""An attempt in a child process, without a server: the order of steps when a task raises."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from pydantic import BaseModel

from backend.broker.wire import Delivery
from backend.states import RETRY
from backend.task import Task
from backend.worker.attempt.attempt import Attempt
from backend.worker.attempt.execute import execute
from backend.worker.attempt.report import Report
from tests.support.attempts import run_alone

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.states import State

pytestmark = pytest.mark.usefixtures("configured")


class Nothing(BaseModel):
    """No arguments, and no value."""


def too_small(_args: Nothing, _run: object) -> Nothing:
    raise ValueError("too small")


@pytest.fixture
def done() -> Iterator[list[str]]:
    """Give a list of what is logged and recorded, in order."""
    done: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            done.append(f"logged {record.msg}")

    handler, logger = Handler(), logging.getLogger("backend.worker.attempt")
    logger.addHandler(handler)
    yield done
    logger.removeHandler(handler)


def test_an_internal_error_is_logged_and_not_raised_in_the_parent(done: list[str]) -> None:
    unknown = Delivery(str(uuid4()), 1, "nobody_knows", ["{}"], {}, None, None, "tasks")
    assert execute("w", [unknown]) == Report()
    assert len(done) == 1


@pytest.mark.parametrize("broken", [False, True])
def test_an_error_is_recorded_before_it_is_logged(done: list[str], *, broken: bool) -> None:
    class Recorded(Attempt):
        def claim(self, *, begun: bool = False) -> None:
            """Need no ledger."""

        def record_error(self, error: str, error_type: str, *, retry: bool) -> State | None:
            done.append(f"recorded {error} {error_type} {retry}")
            if broken:
                raise RuntimeError
            return RETRY

    spec = Task("a_task", too_small, Nothing, 5, 60, one_commit=False)
    report = run_alone(spec, str(uuid4()), "{}", kind=Recorded)
    assert done[0] == "recorded ValueError: too small ValueError True"
    assert done[-1] == "logged %s raised"
    assert [state for state, _ in report.ended.values()] == ([] if broken else [RETRY])
    assert "ValueError: too small" in report.traceback
