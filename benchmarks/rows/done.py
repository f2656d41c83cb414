"""Message tasks: from the first post to the last row in `messages`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from benchmarks.results import Figures, Result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.contenders import Contender
    from benchmarks.load import Load
    from benchmarks.session import Bench

PATIENCE = 60.0
LOOK_SECONDS = 0.05


def run(bench: Bench) -> Iterator[Result]:
    """Post while a worker with two processes runs; the time ends at the last row."""
    yield sustained(bench, "done", "posted → row in messages", 7.0, finish)


def sustained(
    bench: Bench, row: str, what: str, wanted: float, turn: Callable[..., float]
) -> Result:
    """Measure both contenders, each with a worker of two processes; return the result.

    `turn(contender, seconds, result)` returns tasks per second.
    """
    contenders: tuple[Contender, ...] = bench.ours, bench.textbook
    ours, textbook = (Figures(each.name, "tasks/s") for each in contenders)
    result = Result(row, what, ours, textbook, wanted=wanted)
    for contender in contenders:
        contender.clear()
    with bench.ours.worker(), bench.textbook.worker():
        for contender in contenders:
            turn(contender, 1.0, result)  # warm
        for _ in bench.turns():
            for contender, figures in zip(contenders, (ours, textbook), strict=True):
                figures.values.append(turn(contender, bench.seconds, result))
    for contender in contenders:
        contender.clear()
    return result


def finish(contender: Contender, seconds: float, result: Result) -> float:
    """Post for `seconds` and wait for the last row; return tasks per second of the whole time."""
    rate, _ = work_off(contender, lambda: contender.load(seconds), contender.messages, result)
    return rate


def work_off(
    contender: Contender, post: Callable[[], Load], count: Callable[[], int], result: Result
) -> tuple[float, Load]:
    """Post, and wait until `count()` has grown by the number of accepted tasks.

    Returns tasks per second of the whole time, and the answers to the posts. After PATIENCE it
    stops waiting and adds a fault to the result.
    """
    before = count()
    begin = time.monotonic()
    answers = post()
    while (rows := count() - before) < answers.good:
        if time.monotonic() - answers.ended > PATIENCE:
            break
        time.sleep(LOOK_SECONDS)
    rate = rows / (time.monotonic() - begin)
    if rows != answers.good or answers.bad:
        result.faults.append(
            f"{contender.name}: {rows} rows of {answers.good} accepted, {answers.bad}"
        )
    result.generator_cpu = max(result.generator_cpu, answers.cpu_seconds / answers.seconds)
    return rate, answers
