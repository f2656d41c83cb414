"""100,000 tasks, posted as fast as possible to a service where only a fifth of them may wait."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from benchmarks.contenders import POST, Ours
from benchmarks.load import TOO_MANY, load
from benchmarks.results import Figures, Result

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.session import Bench

TASKS = 100_000
PATIENCE = 300.0
LOOK_SECONDS = 0.5


def run(bench: Bench) -> Iterator[Result]:
    """Measure the memory of every process from before the first task to after the last row."""
    ours = bench.add(Flooded)
    tasks = Figures("ours", "tasks/s")
    result = Result("memory-under-load", "100,000 tasks at once", tasks)
    with ours.worker():
        watch = _Watch(ours)
        begin = time.monotonic()
        answers = load(ours.url, lambda: POST, count=TASKS, seconds=PATIENCE)
        while (rows := ours.messages()) < answers.good:
            if time.monotonic() - answers.ended > PATIENCE:
                break
            time.sleep(LOOK_SECONDS)
        tasks.values.append(rows / (time.monotonic() - begin))
        time.sleep(2 * LOOK_SECONDS)
        watch.close()
    others = answers.bad
    refused = others.pop(TOO_MANY, 0)
    result.notes.append(
        f"{answers.good} accepted in {answers.seconds:.0f} s, {refused} refused (429), {rows} rows"
    )
    result.notes += watch.table()
    if rows != answers.good or others or ours.missing(answers):
        result.faults.append(f"{answers.good - rows} lost, other answers: {others}")
    yield result


class Flooded(Ours):
    """The service with a MAX_WAITING that is reached."""

    name = "ours-flooded"

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)
        self.environment["MAX_WAITING"] = str(TASKS // 5)


class _Watch:
    """Measures the memory of the processes twice a second."""

    def __init__(self, service: Ours) -> None:
        self._service = service
        self._seen = [service.processes.memory()]
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop after a last measurement."""
        self._stopping.set()
        self._thread.join()
        self._seen.append(self._service.processes.memory())

    def table(self) -> list[str]:
        """Return a line for each process: its memory at the start, at the peak, at the end."""
        first, last = self._seen[0], self._seen[-1]
        return [
            f"{name}: {first[name]:.0f} MiB at start,"
            f" {max(each.get(name, 0) for each in self._seen):.0f} at peak,"
            f" {last.get(name, 0):.0f} at end"
            for name in first
        ]

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            self._seen.append(self._service.processes.memory())
