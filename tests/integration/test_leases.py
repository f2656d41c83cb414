"""Leases: which workers are alive, and which attempts they hold."""

from __future__ import annotations

import queue
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from celery.worker import state as celery_state

from backend.db import leases, ledger, locked, queries
from backend.states import RETRY, REVOKED
from backend.worker.parent.lease import Lease
from tests.support.ledger import put, submit, succeed
from tests.support.requests import request_of

if TYPE_CHECKING:
    from collections.abc import Callable

LEASES = {
    "no lease": (None, False),
    "a lease that holds it": (["{id}/2"], True),
    "a lease that lost it": ([], False),
    "a lease that holds another attempt": (["{id}/1"], False),
}


@pytest.mark.parametrize("case", LEASES)
def test_a_started_task_is_held_if_its_workers_lease_has_its_attempt(
    database: sa.Engine, case: str
) -> None:
    holds, held = LEASES[case]
    task_id = put(database, "STARTED", attempt=2)
    with database.begin() as connection:
        if holds is not None:
            leases.renew(connection, "w", lambda: [hold.format(id=task_id) for hold in holds])
        renewed_at = leases.renewals(connection).get("w")
        assert queries.started(connection) == [(task_id, 2, "w", renewed_at, held)]


@pytest.mark.parametrize("state", ["PENDING", "RETRY"])
def test_a_waiting_task_is_not_listed_as_started(database: sa.Engine, state: str) -> None:
    put(database, state)
    with database.begin() as connection:
        assert queries.started(connection) == []


def test_a_renewal_returns_attempts_that_are_no_longer_current(database: sa.Engine) -> None:
    runs, ended, revoked, superseded = submit(database, 4)
    with database.begin() as connection:
        for task_id in (runs, ended, revoked, superseded):
            ledger.claim(connection, {task_id: 1}, "w")
        succeed(connection, ended, 1)
        locked.revoke(connection, revoked, "enough", 1)
        locked.fail(connection, superseded, 1, "lost", "w")
        holds = [f"{task_id}/1" for task_id in (runs, ended, revoked, superseded)]
        lost = leases.renew(connection, "w", lambda: holds)
        assert lost == {f"{revoked}/1": REVOKED, f"{superseded}/1": RETRY}
        assert leases.renew(connection, "w", lambda: [f"{superseded}/2"]) == {}


def test_a_worker_is_alive_from_its_first_renewal_until_its_lease_is_ended(
    database: sa.Engine,
) -> None:
    with database.begin() as connection:
        for name in ("runs", "stopped", "died"):
            leases.renew(connection, name, list)
        leases.end(connection, "stopped")
        assert leases.end_dead(connection, "died", leases.renewals(connection)["died"])
        assert leases.end_dead(connection, "never seen", None)
        assert leases.alive(connection) == ["runs"]
        assert leases.leased(connection, "runs")
        assert not leases.leased(connection, "died")


def test_a_lease_does_not_depend_on_the_clock(database: sa.Engine) -> None:
    with database.begin() as connection:
        leases.renew(connection, "w", list)
        connection.execute(
            sa.text(
                "UPDATE workers SET renewed_at = now() - interval '1 h',"
                " expires_at = now() - interval '59 min'"
            )
        )
        assert leases.leased(connection, "w")
        assert leases.alive(connection) == ["w"]


def test_a_worker_that_renewed_meanwhile_is_not_declared_dead(database: sa.Engine) -> None:
    with database.begin() as connection:
        leases.renew(connection, "w", list)
        seen = leases.renewals(connection)["w"]
    url = database.url.update_query_dict({"application_name": "w"})
    engine = sa.create_engine(url)
    with engine.connect() as of_worker, database.connect() as reconciler:
        leases.renew(of_worker, "w", list)
        of_worker.commit()
        of_worker.execute(sa.text("SELECT 1"))  # only connections in a transaction are terminated
        for outdated in (seen, None):
            leases.fence(reconciler, "w", outdated)
            assert not leases.end_dead(reconciler, "w", outdated)
        assert of_worker.execute(sa.text("SELECT 1")).scalar() == 1
        assert leases.alive(reconciler) == ["w"]
    engine.dispose()


def test_the_connections_of_a_dead_worker_are_terminated(database: sa.Engine) -> None:
    with database.begin() as connection:
        leases.renew(connection, "w", list)
        seen = leases.renewals(connection)["w"]
    engine = sa.create_engine(database.url.update_query_dict({"application_name": "w"}))
    with engine.connect() as of_worker, database.connect() as reconciler:
        of_worker.execute(sa.text("SELECT 1"))
        leases.fence(reconciler, "w", seen)
        with pytest.raises(sa.exc.OperationalError):
            of_worker.execute(sa.text("SELECT 1"))
    engine.dispose()


def lease_of(worker: object) -> Any:  # noqa: ANN401 - its private methods are called
    """Return a lease without its threads."""
    lease: Any = Lease.__new__(Lease)
    lease._worker = worker
    lease._name = "w"
    lease._lost_before = set()
    lease._kills = queue.SimpleQueue()
    return lease


def test_a_lease_is_renewed_before_the_worker_has_an_event_loop(service: sa.Engine) -> None:
    lease_of(SimpleNamespace())._renew()
    with service.begin() as connection:
        assert leases.alive(connection) == ["w"]


# By state and attempt of the task: how many renewals notice its first attempt until it is killed.
NOTICED = {
    "superseded": ("STARTED", 2, 2),
    "failed": ("FAILURE", 1, 2),
    "revoked": ("REVOKED", 1, 1),
    "revoked, and then retried": ("RETRY", 2, 1),
}


@pytest.mark.usefixtures("_forget_requests")
@pytest.mark.parametrize("case", NOTICED)
def test_an_attempt_that_is_no_longer_current_is_killed_in_the_event_loop(
    service: sa.Engine, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    state, attempt, renewals = NOTICED[case]
    task_id = put(service, state, attempt=attempt)
    if case == "revoked, and then retried":
        with service.begin() as connection:
            connection.execute(
                sa.text("INSERT INTO task_attempts VALUES (:id, 1, 'REVOKED')"), {"id": task_id}
            )
    request = request_of(monkeypatch, [], id=task_id, ledger_attempt=1)
    killed: list[object] = []
    request.kill = lambda pool, *, revoked: killed.append((pool, revoked))
    celery_state.reserved_requests.add(request)
    later: list[tuple[Callable[..., object], tuple[object, ...]]] = []
    hub = SimpleNamespace(call_soon=lambda step, *args: later.append((step, args)))
    renewing = lease_of(SimpleNamespace(hub=hub, pool="the pool"))
    for _ in range(renewals):
        assert later == []  # a task that has just ended stays in the lease for a moment
        renewing._renew()
    ((step, args),) = later
    assert killed == []
    step(*args)
    assert killed == [("the pool", case.startswith("revoked"))]
