"""Celery requests: the effect of a revoke, and when the child is killed."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock
from uuid import uuid4

import pytest
from celery.exceptions import Terminated, WorkerLostError
from celery.worker import state as celery_state

from backend.worker.parent.unreported import record_failure, record_revoke
from tests.support.requests import request_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.worker.parent.request import LedgerRequest


TASK = str(uuid4())


class Pool:
    """A pool that records which process it should kill."""

    def __init__(self) -> None:
        self.killed: list[tuple[int, int]] = []

    def terminate_job(self, pid: int, signal: int) -> None:
        self.killed.append((pid, signal))


@pytest.fixture(autouse=True)
def _forget_revokes() -> Iterator[None]:
    yield
    celery_state.revoked.clear()
    celery_state.active_requests.clear()


def started(request: Any, pid: int = 4711) -> LedgerRequest:  # noqa: ANN401 - as above
    request.on_accepted(pid, 0.0)
    made: LedgerRequest = request
    return made


def test_a_revoked_id_does_not_stop_a_message_of_an_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outcomes: list[Any] = []
    request = request_of(monkeypatch, outcomes, ledger_attempt=2, expires="2020-01-01T00:00:00")
    celery_state.revoked.add(request.id)
    assert not request.revoked()
    assert outcomes == []


def test_a_revoked_id_stops_an_external_message(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes: list[Any] = []
    request = request_of(monkeypatch, outcomes)
    celery_state.revoked.add(request.id)
    assert request.revoked()
    ((write, task_id, reason, *_),) = outcomes
    assert write is record_revoke
    assert (task_id, reason) == (request.id, "revoked")


def test_an_attempt_whose_child_was_lost_is_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes: list[Any] = []
    request = started(request_of(monkeypatch, outcomes, ledger_attempt=2))
    error = WorkerLostError("signal 9")
    request.child_lost(error)
    ((write, delivery, _, reason),) = outcomes
    assert write is record_failure
    assert (delivery.id, delivery.attempt) == (request.id, 2)
    assert reason is error


def test_a_revoke_that_reaches_an_attempt_in_the_pool_ends_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outcomes: list[Any] = []
    request = request_of(monkeypatch, outcomes, ledger_attempt=1)
    request.terminate(Pool(), signal=signal.SIGTERM)
    assert outcomes == []
    request.child_lost(Terminated(signal.SIGTERM))
    ((write, task_id, _, _, delivery),) = outcomes
    assert write is record_revoke
    assert (task_id, delivery.attempt) == (request.id, 1)


@pytest.mark.parametrize("revoked", [False, True])
def test_the_child_of_a_running_attempt_is_killed_and_nothing_is_recorded(
    monkeypatch: pytest.MonkeyPatch, *, revoked: bool
) -> None:
    pool, outcomes = Pool(), []  # type: ignore[var-annotated]  # as above
    request = started(request_of(monkeypatch, outcomes, ledger_attempt=1))
    events: list[str] = []
    request.send_event = lambda event, **_: events.append(event)  # type: ignore[method-assign]  # a fake
    request.kill(pool, revoked=revoked)
    assert ("task-revoked" in events) is revoked
    assert pool.killed == [(4711, signal.SIGKILL)]
    request.child_lost(Terminated(signal.SIGKILL))
    assert outcomes == []
    request.kill(pool, revoked=revoked)
    assert len(pool.killed) == 1


def test_the_child_of_an_attempt_that_has_ended_or_waits_is_not_killed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = Pool()
    waiting = request_of(monkeypatch, [], ledger_attempt=1)
    celery_state.task_reserved(waiting)
    ended = started(request_of(monkeypatch, [], ledger_attempt=1))
    celery_state.task_ready(ended)
    for request in (waiting, ended):
        request.kill(pool, revoked=False)
    assert pool.killed == []


def test_no_child_is_killed_for_one_member_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool()
    member = request_of(monkeypatch, [], ledger_attempt=1)
    member.shares_job = True
    started(member).kill(pool, revoked=False)
    # Nor is the batch's child killed when the member runs alone in another child.
    member.leave_job()
    member.kill(pool, revoked=False)
    assert pool.killed == []
    started(member, 4712).kill(pool, revoked=False)
    assert pool.killed == [(4712, signal.SIGKILL)]


def test_a_revoke_of_a_former_member_does_not_kill_the_child_of_its_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = Pool()
    member = request_of(monkeypatch, [], ledger_attempt=1)
    member.shares_job = True
    started(member).leave_job()
    member.terminate(pool, signal=signal.SIGTERM)
    assert pool.killed == []


def held_and_again(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any, Any, Any]:
    """Return a held request, another delivery of its attempt, and what acknowledges each."""
    held = request_of(monkeypatch, [], id=TASK, ledger_attempt=1)
    again = request_of(monkeypatch, [], id=TASK, ledger_attempt=1)
    for request in (held, again):
        request.message.channel = held.message.channel
        request._on_ack = Mock()
    monkeypatch.setitem(celery_state.requests, TASK, held)
    return held, again, held._on_ack, again._on_ack


def test_a_duplicate_of_a_held_attempt_is_acknowledged(monkeypatch: pytest.MonkeyPatch) -> None:
    held, again, acknowledge_held, acknowledge_again = held_and_again(monkeypatch)
    assert again.merge_into_held()
    acknowledge_again.assert_called_once()
    held.acknowledge()
    acknowledge_held.assert_called_once()


@pytest.mark.parametrize("how", ["returned to the broker", "on a lost connection"])
def test_a_held_attempt_gets_the_message_that_replaces_its_own(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    held, again, acknowledge_held, acknowledge_again = held_and_again(monkeypatch)
    if how == "returned to the broker":
        held.message._state = "REQUEUED"
    else:
        held.message.channel = object()
    assert again.merge_into_held()
    acknowledge_again.assert_not_called()
    held.acknowledge()
    acknowledge_again.assert_called_once()
    acknowledge_held.assert_not_called()


def test_a_newer_attempt_replaces_no_older_one(monkeypatch: pytest.MonkeyPatch) -> None:
    held_and_again(monkeypatch)
    assert not request_of(monkeypatch, [], id=TASK, ledger_attempt=2).merge_into_held()
