"""The history: every request with its answer and every fault, written when it happens."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

FILE = "history.jsonl"


@dataclass(frozen=True, slots=True)
class Answer:
    """A request and its answer; times are seconds since the start, by the monotonic clock.

    `asked` has the tasks of a submission, each as name and label. The label is a unique text
    in the task's arguments, or "" if they have no text. `status` is None if there was no
    answer; then `body` has the reason.
    """

    sent: float
    received: float
    replica: int
    method: str
    path: str
    status: int | None
    body: str
    key: str | None = None
    asked: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Happened:
    """A fault that is over, or a process that ended unexpectedly (`name` is "ended_by_itself")."""

    began: float
    ended: float
    name: str
    target: str
    note: str = ""


@dataclass
class History:
    """All answers and faults, in the order in which they were recorded."""

    answers: list[Answer] = field(default_factory=list)
    happened: list[Happened] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> History:
        """Return the history that a run has left in its folder."""
        history = cls()
        with (folder / FILE).open() as file:
            for line in file:
                record = json.loads(line)
                if "method" in record:
                    record["asked"] = [tuple(asked) for asked in record["asked"]]
                    history.answers.append(Answer(**record))
                else:
                    history.happened.append(Happened(**record))
        return history


class Recorder:
    """Appends to a run's history, from any thread; each line is flushed."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / FILE).open("a")
        self._lock = threading.Lock()
        self.begin = time.monotonic()

    def now(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self.begin

    def add(self, record: Answer | Happened) -> None:
        """Append a record."""
        line = json.dumps(asdict(record))
        with self._lock:
            self._file.write(line + "\n")
            self._file.flush()

    def say(self, text: str) -> None:
        """Print a line with the seconds since the start."""
        print(f"{self.now():6.1f} s  {text}", flush=True)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
