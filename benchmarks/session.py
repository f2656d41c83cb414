"""A run of the benchmark: its servers, its contenders, and turns."""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from benchmarks.contenders import Contender, Floor, Ours, Textbook
from benchmarks.processes import ROOT
from benchmarks.servers import Broker, postgres
from benchmarks.tables import fill

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.load import Load
    from benchmarks.results import Result

C = TypeVar("C", bound=Contender)

LATE_SECONDS = 1.0
WARM_SECONDS = 0.7


class Bench:
    """The servers and contenders of a run.

    A contender is started at its first use and runs until the end of the run. All contenders
    except the one whose turn it is are idle.
    """

    def __init__(self, rounds: int, seconds: float) -> None:
        self.rounds = rounds
        self.seconds = seconds
        self._stack = ExitStack()
        self._contenders: dict[str, Contender] = {}

    def __enter__(self) -> Self:
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        self.postgres = self._stack.enter_context(postgres())
        self.broker = self._stack.enter_context(Broker())
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, kind: type[C], name: str = "", code: Path = ROOT) -> C:
        """Return the contender of that name; at the first call start it and warm it up.

        `code`: the folder with the code that it runs.
        """
        key = name or kind.name
        if key not in self._contenders:
            made = kind(self.postgres, self.broker, self.folder, name, code)
            self._stack.callback(made.close)
            made.start()
            made.load(WARM_SECONDS)
            made.clear()
            self._contenders[key] = made
        found = self._contenders[key]
        assert isinstance(found, kind)
        return found

    @property
    def ours(self) -> Ours:
        """Return the service, without a worker."""
        return self.add(Ours)

    @property
    def textbook(self) -> Textbook:
        """Return the textbook, without a worker."""
        return self.add(Textbook)

    @property
    def floor(self) -> Floor:
        """Return the floor."""
        return self.add(Floor)

    def filled(self, rows: int) -> Ours:
        """Return a separate service with `rows` ended tasks, each with its message."""
        name = f"ours-{rows}"
        new = name not in self._contenders
        found = self.add(Ours, name)
        if new:
            fill(found.database, rows)
        return found

    def turns(self) -> Iterator[int]:
        """Yield the number of each round."""
        yield from range(self.rounds)


def check(contender: Contender, answers: Load, result: Result, tasks: int | None = None) -> float:
    """Wait until all accepted tasks are published; add a fault for each problem.

    Returns the seconds from the last answer until all were published. `tasks`: how many were
    accepted, by default one for each 2xx answer. If it is given, a late end is no fault, and
    `contender.missing` is not called.
    """
    expected = answers.good if tasks is None else tasks
    late = settle(contender, answers.ended, expected)
    if answers.bad:
        result.faults.append(f"{contender.name} answered {answers.bad}")
    if late is None:
        result.faults.append(f"{contender.name} published {contender.published()} of {expected}")
    elif late > LATE_SECONDS and tasks is None:
        result.faults.append(f"{contender.name} published the last {late:.1f} s later")
    if tasks is None and (lost := contender.missing(answers)):
        result.faults.append(f"{contender.name} lost {lost} tasks")
    share = answers.cpu_seconds / answers.seconds
    result.generator_cpu = max(result.generator_cpu, share)
    return late or 0.0


def settle(contender: Contender, since: float, expected: int, patience: float = 30) -> float | None:
    """Return the seconds from `since` until all tasks were published; None after `patience` s."""
    while contender.published() < expected:
        if time.monotonic() - since > patience:
            return None
        time.sleep(0.01)
    return time.monotonic() - since
