"""What a child process reports to the parent process about the attempts of a job."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backend.db.records import TaskRecord
    from backend.states import State

# How many characters of a value Flower shows.
VALUE_LENGTH = 200


@dataclass
class Report:
    """The results of attempts, for the parent process.

    ended: by task id the state that the attempt led to, and the start of its value or its error.
    alone: the ids of those that are still to be run, each alone. An attempt in neither has no
    outcome to report: it was dropped, or PostgreSQL was away.
    traceback: of the error of a single attempt. seconds: how long all of them took.
    """

    ended: dict[str, tuple[State, str]] = field(default_factory=dict)
    alone: list[str] = field(default_factory=list)
    traceback: str = ""
    seconds: float = 0.0

    def add(self, outcome: TaskRecord) -> None:
        """Add how an attempt has ended."""
        text = outcome.error or str(outcome.result)[:VALUE_LENGTH]
        self.ended[outcome.id] = outcome.state, text
