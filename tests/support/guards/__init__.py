"""The guards of the rules, and the tests that fail without them."""

from __future__ import annotations

from . import api, attempts, broker, database, ledger, local, purge, repairs, series, workers
from .guard import Guard

__all__ = ["GUARDS", "Guard"]

GUARDS = [
    *local.GUARDS,
    *api.GUARDS,
    *broker.GUARDS,
    *repairs.GUARDS,
    *purge.GUARDS,
    *ledger.GUARDS,
    *database.GUARDS,
    *workers.GUARDS,
    *attempts.GUARDS,
    *series.GUARDS,
]
