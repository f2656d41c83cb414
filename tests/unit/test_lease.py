"""The lease's thread: it finds attempts that no longer count, and kills nothing itself."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.usefixtures("configured")


def test_an_attempt_that_no_longer_counts_is_killed_by_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from backend.worker import lease

    killed: list[object] = []
    later: list[tuple[Callable[..., object], tuple[object, ...]]] = []
    request = SimpleNamespace(kill=killed.append)

    @contextmanager
    def transaction() -> Iterator[None]:
        yield None

    def renew(_connection: object, _name: str, held: Callable[[], list[str]]) -> list[str]:
        return held()

    monkeypatch.setattr(lease, "transaction", transaction)
    monkeypatch.setattr("backend.db.workers.renew", renew)
    monkeypatch.setattr(lease, "_held", lambda: {"an id/1": request})
    hub = SimpleNamespace(call_soon=lambda step, *args: later.append((step, args)))
    renewing: Any = lease.Lease.__new__(lease.Lease)
    renewing._worker = SimpleNamespace(hub=hub, pool="the pool")
    renewing._name = "a worker"
    renewing._lost_before = set()
    renewing._renew()
    assert later == []  # a task that has just ended is still held for a moment
    renewing._renew()
    ((step, args),) = later
    assert killed == []
    step(*args)
    assert killed == ["the pool"]
