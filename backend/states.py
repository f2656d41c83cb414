"""The states of a task. CONTRIBUTING.md has a diagram of the transitions.

In an f-string of SQL a state is `'{STARTED}'`, and a list of states `{one_of(ENDED)}`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence


class State(StrEnum):
    """The state of a task, in the ledger and in answers."""

    PENDING = "PENDING"
    STARTED = "STARTED"
    RETRY = "RETRY"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    REVOKED = "REVOKED"


PENDING: Final = State.PENDING
STARTED: Final = State.STARTED
RETRY: Final = State.RETRY
SUCCESS: Final = State.SUCCESS
FAILURE: Final = State.FAILURE
REVOKED: Final = State.REVOKED

UNFINISHED: Final = (PENDING, STARTED, RETRY)
ENDED: Final = (SUCCESS, FAILURE, REVOKED)
# What a client may retry.
RETRIABLE: Final = (FAILURE, REVOKED)


class Listed(StrEnum):
    """How `GET /tasks/` lists an unfinished task."""

    ACTIVE = "ACTIVE"
    SCHEDULED = "SCHEDULED"
    RESERVED = "RESERVED"


ACTIVE: Final = Listed.ACTIVE
SCHEDULED: Final = Listed.SCHEDULED
RESERVED: Final = Listed.RESERVED


def one_of(states: Sequence[State]) -> str:
    """Return states as a list for SQL's IN: `('SUCCESS', 'FAILURE')`."""
    return "('" + "', '".join(states) + "')"
