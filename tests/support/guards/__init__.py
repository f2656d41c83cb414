"""The guards of the rules, and the tests that fail without them."""

from __future__ import annotations

from . import (
    api,
    attempts,
    authors,
    broker,
    control,
    database,
    ledger,
    limits,
    local,
    options,
    purge,
    repairs,
    series,
    submit,
    threads,
    workers,
)
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
    *authors.GUARDS,
    *series.GUARDS,
    *limits.GUARDS,
    *submit.GUARDS,
    *threads.GUARDS,
    *control.GUARDS,
    *options.GUARDS,
]
