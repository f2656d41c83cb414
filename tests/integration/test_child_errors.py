"""Errors that arise in a pool process outside of our own code: they count as failed attempts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.test_ledger import box, submit, task
from tests.support.waiting import eventually

if TYPE_CHECKING:
    import sqlalchemy as sa


@pytest.mark.parametrize(("max_attempts", "state"), [(3, "RETRY"), (1, "FAILURE")])
def test_an_error_of_celerys_in_a_child_is_a_failed_attempt_with_its_reason(
    service: sa.Engine, max_attempts: int, state: str
) -> None:
    from backend.worker.outcomes import RpcOutcomes

    (task_id,) = submit(service, max_attempts=max_attempts)
    told: list[str] = []

    class Outcomes(RpcOutcomes):
        def __init__(self) -> None:
            pass

        def tell(self, *parts: Any) -> None:
            told.append(parts[2])

    request: Any = SimpleNamespace(hostname="w", ledger_attempt=1)
    error = TypeError("it takes 1 positional argument but 2 were given")
    Outcomes().store_result(task_id, error, "FAILURE", request=request)
    row = task(service, task_id)
    assert (row["state"], row["error"]) == (state, str(error))
    assert box(service) == ([(task_id, 2)] if state == "RETRY" else [])
    if state == "FAILURE":
        eventually(lambda: told == ["FAILURE"], 5, "whoever asked is told")
