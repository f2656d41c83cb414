"""The lease's thread: it finds attempts that no longer count, and kills nothing itself."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest

from backend.worker.parent import lease, subprocesses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def test_an_attempt_that_no_longer_counts_is_killed_by_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    killed: list[object] = []
    later: list[tuple[Callable[..., object], tuple[object, ...]]] = []
    request = SimpleNamespace(kill=killed.append)

    @contextmanager
    def transaction() -> Iterator[None]:
        yield None

    def renew(_connection: object, _name: str, held: Callable[[], list[str]]) -> list[str]:
        return held()

    monkeypatch.setattr(lease, "transaction", transaction)
    monkeypatch.setattr("backend.db.leases.renew", renew)
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


def test_a_lease_lists_no_member_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    alone, member = (
        Mock(id=name, delivery=Mock(attempt=2), in_batch=name == "member")
        for name in ("alone", "member")
    )
    monkeypatch.setattr(
        lease,
        "celery_state",
        SimpleNamespace(reserved_requests=[alone, member], active_requests=[alone, member]),
    )
    assert lease._held() == {"alone/2": alone}


def test_a_worker_that_ends_with_tasks_running_hands_them_back_when_no_child_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[str] = []
    ending: Any = lease.Lease.__new__(lease.Lease)
    ending._stopping = threading.Event()
    ending._name = "a worker"
    children = SimpleNamespace(_pool=[SimpleNamespace(pid="one"), SimpleNamespace(pid="two")])
    ending._worker = SimpleNamespace(pool=SimpleNamespace(_pool=children))

    def hand_back() -> None:
        done.append(f"hand back, renewing: {not ending._stopping.is_set()}")

    monkeypatch.setattr(ending, "_hand_back_soon", hand_back)
    monkeypatch.setattr(subprocesses, "kill_all", lambda pids: done.append(f"kill {list(pids)}"))
    monkeypatch.setattr(os, "_exit", lambda code: done.append(f"exit {code}"))
    ending.end_now(1)
    assert done == ["kill ['one', 'two']", "hand back, renewing: False", "exit 1"]


@pytest.mark.parametrize("told", [True, False])
def test_a_worker_that_stops_ends_whatever_its_end_waits_for(
    monkeypatch: pytest.MonkeyPatch, *, told: bool
) -> None:
    done: list[object] = []
    monkeypatch.setattr("backend.worker.parent.lease.time.sleep", done.append)
    monkeypatch.setattr(os, "_exit", lambda code: done.append(f"exit {code}"))
    monkeypatch.setattr(lease.Lease, "_told_to_stop", lambda _: told)
    ending: Any = lease.Lease.__new__(lease.Lease)
    ending._worker = SimpleNamespace(exitcode=3)
    ending._stopping = threading.Event()
    ending._stopping.set()  # `end` was called, and does not return
    ending._watch_for_stop()
    assert done == [lease.EXIT_TIMEOUT, "exit 3"]
