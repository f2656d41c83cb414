"""The schedule of the chaos suite: equal for equal seeds, with every kind of fault."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.chaos.faults import Faults
from tests.chaos.schedule import KINDS, BrokerName, schedule

BROKERS: list[BrokerName] = ["rabbitmq", "valkey"]


@pytest.mark.parametrize("broker", BROKERS)
def test_a_seed_leads_to_the_same_faults_each_time(broker: BrokerName) -> None:
    assert schedule(7, 60, broker) == schedule(7, 60, broker)
    assert schedule(7, 60, broker) != schedule(8, 60, broker)


@pytest.mark.parametrize("broker", BROKERS)
def test_each_kind_of_fault_occurs_before_any_occurs_again(broker: BrokerName) -> None:
    kinds = {name: kind.times for name, kind in KINDS.items() if broker in kind.brokers}
    for seed in range(50):
        names = [fault.name for fault in schedule(seed, 180, broker)]
        assert Counter(names[: sum(kinds.values())]) == kinds
        assert len(names) > sum(kinds.values())


@pytest.mark.parametrize("broker", BROKERS)
def test_a_run_of_a_minute_has_most_kinds_of_faults(broker: BrokerName) -> None:
    for seed in range(50):
        assert len({fault.name for fault in schedule(seed, 60, broker)}) >= 13


def test_faults_are_in_order_and_within_the_limits_of_their_kinds() -> None:
    for seed in range(50):
        faults = schedule(seed, 60, "rabbitmq")
        assert [fault.at for fault in faults] == sorted(fault.at for fault in faults)
        for fault in faults:
            kind = KINDS[fault.name]
            assert fault.target in kind.targets
            assert kind.shortest <= fault.seconds <= kind.longest
            assert fault.at <= 54


def test_an_alarm_of_rabbitmq_is_never_planned_for_valkey() -> None:
    names = {fault.name for seed in range(20) for fault in schedule(seed, 180, "valkey")}
    assert "raise_alarm" not in names


def test_every_kind_of_fault_has_a_method() -> None:
    assert [name for name in KINDS if not hasattr(Faults, f"_{name}")] == []
