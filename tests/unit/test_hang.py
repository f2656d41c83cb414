"""When a worker's event loop is treated as hung."""

from __future__ import annotations

from backend.worker.parent.hang import CHECKS, Misses


def never() -> bool:
    raise AssertionError("no connection is needed here")


def yes() -> bool:
    return True


def no() -> bool:
    return False


def test_thirty_successive_checks_without_a_tick_mean_a_hung_event_loop() -> None:
    misses = Misses()
    assert [misses.check(ticked=False, reached=yes) for _ in range(30)] == [False] * 29 + [True]
    assert CHECKS == 30


def test_one_tick_restarts_the_count_without_a_connection() -> None:
    misses = Misses()
    for _ in range(5):
        assert not any(misses.check(ticked=False, reached=yes) for _ in range(29))
        assert not misses.check(ticked=True, reached=never)


def test_an_unavailable_broker_explains_a_missing_tick() -> None:
    misses = Misses()
    assert not any(misses.check(ticked=False, reached=no) for _ in range(1000))
    # Celery may notice late that the broker is available again.
    assert not any(misses.check(ticked=False, reached=yes) for _ in range(29))
    assert not misses.check(ticked=False, reached=no)
    assert not any(misses.check(ticked=False, reached=yes) for _ in range(29))
