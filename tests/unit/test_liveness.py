"""Whether workers are alive: only observed renewals matter, not the times in them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from backend.db.records import Started
from backend.maintenance.liveness import Calm, Liveness

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    """Return a time as a lease may have it."""
    return EPOCH + timedelta(seconds=seconds)


def dead(liveness: Liveness, second: float, **leases: datetime | None) -> set[str]:
    """Find dead workers in a check of a tenth of a second."""
    return liveness.find_dead(second, second + 0.1, leases)


def attempt(renewed_at: float | None, *, held: bool = False) -> Started:
    """Return the only attempt, as seen after a renewal."""
    return Started("id", 1, "w", None if renewed_at is None else at(renewed_at), held)


def test_a_worker_that_stops_renewing_is_dead_after_the_length_of_a_lease() -> None:
    liveness = Liveness()
    for second in range(0, 20, 2):
        assert dead(liveness, second, w=at(second)) == set()
    assert [second for second in range(20, 40, 2) if dead(liveness, second, w=at(18))] == [
        *range(30, 40, 2)
    ]


def test_a_worker_that_renews_is_alive_despite_clock_jumps() -> None:
    liveness = Liveness()
    jumps = [0, 2, 64, 66, 3700, 3702, 108, 110, -3600, -3598, -3596, 14]
    for look, said in enumerate(jumps):
        assert dead(liveness, 2 * look, w=at(said)) == set()


def test_a_worker_never_seen_alive_is_watched_before_it_is_declared_dead() -> None:
    liveness = Liveness()
    assert dead(liveness, 1000, old=at(-9999), gone=None) == set()
    for second in range(1002, 1010, 2):
        assert dead(liveness, second, old=at(-9999), gone=None) == set()
    dead(liveness, 1010, old=at(-9999), gone=None)
    assert dead(liveness, 1012, old=at(-9999), gone=None) == {"old", "gone"}


def test_a_lease_deleted_by_another_reconciler_is_not_a_renewal() -> None:
    liveness = Liveness()
    for second in range(0, 10, 2):
        dead(liveness, second, w=at(0))
    dead(liveness, 10, w=None)
    assert dead(liveness, 12, w=None) == {"w"}


def test_a_pause_between_checks_restarts_the_observation() -> None:
    liveness = Liveness()
    dead(liveness, 0, w=at(0))
    dead(liveness, 8, w=at(0))
    assert dead(liveness, 60, w=at(0)) == set()
    for second in range(62, 70, 2):
        assert dead(liveness, second, w=at(0)) == set()
    dead(liveness, 70, w=at(0))
    assert dead(liveness, 72, w=at(0)) == {"w"}


def test_a_check_that_hung_restarts_the_observation() -> None:
    liveness = Liveness()
    for second in range(0, 12, 2):
        dead(liveness, second, w=at(0))
    assert liveness.find_dead(12, 60, {"w": at(0)}) == set()
    assert dead(liveness, 62, w=at(0)) == set()


def test_the_duration_of_a_check_does_not_add_to_the_observation() -> None:
    liveness = Liveness()
    liveness.find_dead(0, 5, {"w": at(0)})
    for begin in (6, 8, 10, 12):
        assert dead(liveness, begin, w=at(0)) == set()
    assert dead(liveness, 14.9, w=at(0)) == set()
    assert dead(liveness, 15.1, w=at(0)) == {"w"}


def test_an_attempt_is_abandoned_after_two_more_renewals_without_it() -> None:
    liveness = Liveness()
    looks = [attempt(0), attempt(0), attempt(2), attempt(2), attempt(-3600)]
    found = [liveness.find_unheld([look]) for look in looks]
    assert found == [[], [], [], [], [attempt(-3600)]]


def test_an_attempt_that_is_held_again_is_no_longer_suspected() -> None:
    liveness = Liveness()
    for look in (attempt(0), attempt(2), attempt(4, held=True), attempt(6), attempt(8)):
        assert liveness.find_unheld([look]) == []


def test_an_attempt_without_a_lease_is_not_treated_as_abandoned() -> None:
    liveness = Liveness()
    for renewed_at in (0, 2, None, 4, 6):
        assert liveness.find_unheld([attempt(renewed_at)]) == []


def test_the_next_attempt_of_a_task_is_suspected_separately() -> None:
    liveness = Liveness()
    for renewed_at in (0, 2):
        liveness.find_unheld([attempt(renewed_at)])
    assert liveness.find_unheld([attempt(4)._replace(attempt=2)]) == []


def test_the_calm_period_restarts_after_a_pause_or_a_clock_jump() -> None:
    calm = Calm()
    even = [(0, 0), (2, 2), (4, 4.5)]
    assert [calm.seconds(second, at(clock)) for second, clock in even] == [0, 2, 4]
    assert calm.seconds(6, at(66.5)) == 0  # set forward by 60 s
    assert calm.seconds(8, at(68.5)) == 2
    assert calm.seconds(10, at(10)) == 0  # and back
    assert calm.seconds(12, at(12)) == 2
    assert calm.seconds(30, at(30)) == 0  # no check for 18 s
