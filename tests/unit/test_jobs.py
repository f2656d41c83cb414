"""Attempts sent to a child process, seen from the worker's parent process."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from billiard.einfo import ExceptionInfo
from celery.exceptions import WorkerLostError
from celery.worker import state as celery_state

from backend.states import FAILURE, RETRY, SUCCESS
from backend.worker.attempt.report import Report
from backend.worker.parent import held, unreported
from backend.worker.parent.jobs import Job
from backend.worker.parent.series import Series
from tests.support.requests import request_of

pytestmark = pytest.mark.usefixtures("_forget_requests")


@pytest.fixture
def controller() -> SimpleNamespace:
    """Give a worker whose pool records its calls."""
    return SimpleNamespace(hostname="w", semaphore=Mock(), pool=Mock(), waiting=Mock(), reported=[])


def job_of(
    monkeypatch: pytest.MonkeyPatch, controller: SimpleNamespace, count: int
) -> tuple[Any, list[Any]]:
    """Return a job of `count` attempts, received but not started, and their requests."""
    requests = [
        request_of(monkeypatch, controller.reported, ledger_attempt=1) for _ in range(count)
    ]
    for request in requests:
        request.shares_job = count > 1
        request.announced = not request.shares_job
        request.eventer = Mock(enabled=True)
        celery_state.task_reserved(request)
    return Job(controller, requests, controller.waiting), requests


def sent_events(request: Any) -> list[str]:  # noqa: ANN401 - a request
    return [call.args[0] for call in request.eventer.send.call_args_list]


def test_an_attempt_that_cannot_be_sent_fails_and_frees_its_child(
    monkeypatch: pytest.MonkeyPatch, controller: SimpleNamespace
) -> None:
    job, (request,) = job_of(monkeypatch, controller, 1)
    error = RecursionError("nested too deeply")
    controller.pool.apply_async.side_effect = error
    job.send()
    controller.semaphore.release.assert_called_once_with()
    ((write, delivery, _, reason),) = controller.reported
    assert write is unreported.record_failure
    assert (delivery.id, reason) == (request.id, error)
    assert request not in celery_state.reserved_requests


def test_the_members_of_a_batch_that_cannot_be_sent_run_alone(
    monkeypatch: pytest.MonkeyPatch, controller: SimpleNamespace
) -> None:
    job, requests = job_of(monkeypatch, controller, 2)
    controller.pool.apply_async.side_effect = OSError
    job.send()
    controller.semaphore.release.assert_called_once_with()
    controller.waiting.add_first.assert_called_once_with(requests)
    controller.waiting.ended.assert_called_once_with(job)
    assert not any(request.shares_job for request in requests)
    assert controller.reported == []


def test_each_attempt_in_a_report_ends_and_sends_its_event(
    monkeypatch: pytest.MonkeyPatch, controller: SimpleNamespace
) -> None:
    job, requests = job_of(monkeypatch, controller, 5)
    job.send()
    job._on_accepted(4711, 0.0)
    succeeded, failed, retried, alone, dropped = (request.id for request in requests)
    ended = {succeeded: (SUCCESS, "1"), failed: (FAILURE, "bad"), retried: (RETRY, "bad")}
    job._on_done(Report(ended, [alone]))
    assert [sent_events(request)[2:] for request in requests] == [
        ["task-succeeded"],
        ["task-failed"],
        ["task-retried"],
        [],
        [],
    ]
    assert not celery_state.active_requests
    controller.waiting.add_first.assert_called_once_with([requests[3]])
    controller.waiting.ended.assert_called_once_with(job)
    assert requests[3] in celery_state.reserved_requests
    assert dropped not in {request.id for request in celery_state.reserved_requests}
    controller.semaphore.release.assert_not_called()


@pytest.mark.parametrize(("count", "listed"), [(1, True), (2, False)])
def test_the_lease_lists_a_single_short_attempt_but_no_member_of_a_batch(
    monkeypatch: pytest.MonkeyPatch, controller: SimpleNamespace, count: int, *, listed: bool
) -> None:
    job, requests = job_of(monkeypatch, controller, count)
    for request in requests:
        request.shares_job, request.announced = True, False
    job.send()
    job._on_accepted(4711, 0.0)
    assert [f"{request.id}/1" in held.attempts() for request in requests] == [listed] * count
    assert "task-received" in sent_events(requests[0])


def test_an_attempt_of_a_bundle_is_announced_once_although_it_runs_alone_later(
    monkeypatch: pytest.MonkeyPatch, controller: SimpleNamespace
) -> None:
    job, (_, alone) = job_of(monkeypatch, controller, 2)
    job._on_accepted(4711, 0.0)
    job._run_alone([alone.id])
    Job(controller, [alone], controller.waiting)._on_accepted(4712, 0.0)
    assert sent_events(alone) == ["task-received", "task-started", "task-started"]


def test_an_attempt_of_a_redelivered_bundle_is_announced_when_it_begins(
    monkeypatch: pytest.MonkeyPatch, controller: SimpleNamespace
) -> None:
    job, (request,) = job_of(monkeypatch, controller, 1)
    request.announced = False
    job._on_accepted(4711, 0.0)
    assert sent_events(request) == ["task-received", "task-started"]


def test_a_lost_child_costs_an_attempt_of_the_task_that_it_began_last(
    monkeypatch: pytest.MonkeyPatch, controller: SimpleNamespace
) -> None:
    _, (before, current, behind) = job_of(monkeypatch, controller, 3)
    series: Any = Series(controller, [before, current, behind], controller.waiting)
    series._tickets = Mock(take_rest=lambda: 1)
    with pytest.raises(WorkerLostError) as caught:
        raise WorkerLostError("signal 9")
    series._on_lost(ExceptionInfo((caught.type, caught.value, caught.tb)))
    (failed, delivery, *_), (repeated, numbers) = controller.reported
    assert (failed, delivery.id) == (unreported.record_failure, current.id)
    assert (repeated, numbers) == (unreported.reschedule_unstarted, {before.id: 1})
    controller.waiting.add_first.assert_called_once_with([behind])


@pytest.mark.parametrize("count", [1, 3])
def test_attempts_whose_child_is_lost_are_reported_once(
    monkeypatch: pytest.MonkeyPatch, controller: SimpleNamespace, count: int
) -> None:
    job, requests = job_of(monkeypatch, controller, count)
    job.send()
    job._on_accepted(4711, 0.0)
    with pytest.raises(WorkerLostError) as caught:
        raise WorkerLostError("signal 9")
    job._on_lost(ExceptionInfo((caught.type, caught.value, caught.tb)))
    controller.waiting.ended.assert_called_once_with(job)
    ((write, lost, *_),) = controller.reported
    single = count == 1
    assert write is (unreported.record_failure if single else unreported.reschedule_unstarted)
    assert ({lost.id} if single else set(lost)) == {request.id for request in requests}
    assert not celery_state.active_requests


@pytest.mark.parametrize("locked", [True, False])
def test_the_parent_starts_a_long_attempt_only_if_the_child_does_not_claim_it(
    monkeypatch: pytest.MonkeyPatch, controller: SimpleNamespace, *, locked: bool
) -> None:
    _, requests = job_of(monkeypatch, controller, 2)
    series: Any = Series(controller, requests, controller.waiting)
    controller.hub = Mock()
    series._result, series._tickets = Mock(), Mock(take_rest=lambda: 1, locked=locked)
    series._trim()
    written = [write for write, *_ in controller.reported]
    assert written == [unreported.start_attempt] * locked
    controller.waiting.add_first.assert_called_once_with([requests[1]])
