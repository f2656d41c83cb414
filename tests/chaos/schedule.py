"""The schedule: which fault happens when. It depends only on seed, duration and broker."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

BrokerName: TypeAlias = Literal["rabbitmq", "valkey"]

APIS = ("api-0", "api-1")
WORKERS = ("worker-0", "worker-1")
RELAYS = ("relay",)
STORE = ("postgres",)
BROKER = ("broker",)
CLOCK = ("clock",)
CONNECTIONS = ("connections",)
QUEUES = ("queues",)

# Seconds before the first fault, and between the starts of two faults.
FIRST = 2.0
GAPS = (1.2, 3.6)
# Steps of PostgreSQL's clock, in seconds.
STEPS = (-3600.0, -60.0, 60.0, 3600.0)


class Kind(NamedTuple):
    """A kind of fault: its possible targets, its duration in seconds, and its frequency."""

    targets: tuple[str, ...]
    shortest: float = 0.0
    longest: float = 0.0
    brokers: tuple[BrokerName, ...] = ("rabbitmq", "valkey")
    times: int = 1


KINDS = {
    "kill_api": Kind(APIS, 0.5, 3),
    "kill_worker": Kind(WORKERS, 0.5, 4),
    "kill_child": Kind(WORKERS),
    "kill_relay": Kind(RELAYS, 0.5, 6),
    "stop_worker": Kind(WORKERS, 0.5, 3),
    # Longer than a lease, which is 10 s.
    "freeze_worker": Kind(WORKERS, 12, 20),
    "freeze_relay": Kind(RELAYS, 12, 20),
    "restart_store": Kind(STORE, 0.5, 3),
    "crash_store": Kind(STORE, 0.5, 3),
    "freeze_store": Kind(STORE, 2, 8),
    "end_store_connections": Kind(STORE),
    "step_clock": Kind(CLOCK, times=2),
    "stop_broker": Kind(BROKER, 0.5, 5),
    "wipe_broker": Kind(BROKER, 0.5, 5),
    "freeze_broker": Kind(BROKER, 3, 8),
    "delete_queues": Kind(QUEUES),
    "close_connections": Kind(CONNECTIONS),
    "cut_connections": Kind(CONNECTIONS),
    "refuse_connections": Kind(CONNECTIONS, 1, 5),
    "raise_alarm": Kind(BROKER, 5, 12, brokers=("rabbitmq",)),
    "send_malformed": Kind(QUEUES, times=2),
    "send_duplicates": Kind(QUEUES),
}

# A request may get a 503 during these faults,
OF_THE_STORE = {name for name, kind in KINDS.items() if kind.targets == STORE}
# and a task with one attempt may lose it because of these.
DEADLY = {"kill_worker", "kill_child", "freeze_worker"}


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault: it begins `at` seconds after the start and lasts `seconds`.

    `amount` is from 0 to 1, for other random choices; for `step_clock` it is the seconds.
    """

    at: float
    name: str
    target: str
    seconds: float
    amount: float


def schedule(seed: int, seconds: float, broker: BrokerName) -> list[Fault]:
    """Return the faults of a run in order; all begin before the last tenth of the time.

    All kinds occur (frequent ones twice) before any kind occurs again.
    """
    # Not for secrets: the sequence must be repeatable.
    chance = random.Random(f"{seed} {broker}")
    deck: list[str] = []
    faults: list[Fault] = []
    at = FIRST
    while at < seconds * 0.9:
        if not deck:
            kinds = [name for name, kind in KINDS.items() if broker in kind.brokers]
            deck = [name for name in kinds for _ in range(KINDS[name].times)]
            chance.shuffle(deck)
        name = deck.pop()
        kind = KINDS[name]
        lasts = round(chance.uniform(kind.shortest, kind.longest), 1)
        amount = chance.choice(STEPS) if kind.targets == CLOCK else round(chance.random(), 3)
        faults.append(Fault(round(at, 1), name, chance.choice(kind.targets), lasts, amount))
        at += chance.uniform(*GAPS)
    return faults
