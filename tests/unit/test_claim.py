"""One attempt in a child process, without a server: what comes first when a task raises."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from celery.exceptions import Ignore, Retry

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("configured")


def run(monkeypatch: pytest.MonkeyPatch, record: Callable[[], str]) -> list[str]:
    """Run an attempt whose task raises; return what was done, in order."""
    from backend.worker import claim

    done: list[str] = []

    def fail(*_args: object, **_kwargs: object) -> str:
        done.append("recorded")
        return record()

    def raise_error(_attempt: object) -> None:
        raise ValueError("too small")

    def log(record: logging.LogRecord) -> bool:
        done.append(f"logged {record.msg}")
        return False

    monkeypatch.setattr(claim.Attempt, "run", raise_error)
    monkeypatch.setattr(claim.Attempt, "fail", fail)
    monkeypatch.setattr(claim.logger, "filters", [log])
    from backend.tasks.registry import registered

    request = SimpleNamespace(id="an id", hostname="a worker", reply_to=None, ledger_attempt=1)
    attributes = {"name": "slow", "spec": registered()["slow"], "request": request}
    task: Any = type("Task", (claim.LedgerTask,), attributes)()
    with pytest.raises((Retry, Ignore)):
        task()
    return done


def test_an_error_is_recorded_before_it_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, lambda: "RETRY") == ["recorded", "logged %s raised"]


def test_an_error_that_cannot_be_recorded_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    from backend.errors import StoreUnavailable

    def away() -> str:
        raise StoreUnavailable

    assert run(monkeypatch, away) == ["recorded", "logged %s raised"]
