"""`make chaos`: mixed work, faults, a check and a table; `--check FOLDER` checks a kept run."""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.waiting import eventually

from .checker import check
from .cluster import COMMANDS, Cluster
from .ending import Ending, ending, idle
from .faults import Faults
from .history import History, Recorder
from .load import Load
from .schedule import schedule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .checker import Report
    from .schedule import BrokerName

# Seconds that the service has after the last fault to finish all work: a message that was published
# five times is published again only after 160 s.
IDLE_SECONDS = 240.0
FAULT_SECONDS = 200.0
SHOWN = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite; return 1 if there are findings."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="which faults happen when (default: a new one)")
    parser.add_argument("--seconds", type=float, default=60, help="how long the work goes on")
    parser.add_argument("--broker", choices=["rabbitmq", "valkey"], default="rabbitmq")
    parser.add_argument("--check", type=Path, metavar="FOLDER", help="check a kept run again")
    options = parser.parse_args(arguments)
    if options.check:
        report = check(History.read(options.check), Ending.read(options.check))
        print(_table(["kept run", str(options.check)], report))
        return _close(report, options.check)
    seed = random.randrange(1_000_000) if options.seed is None else options.seed
    # Like Ctrl+C: then everything is stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix=f"chaos-{seed}-"))
    print(f"Seed {seed}, {options.seconds:g} s on {options.broker}; all is kept in {folder}")
    report = run(seed, options.seconds, options.broker, folder)
    words = ["seed", str(seed), "broker", options.broker, "seconds", f"{options.seconds:g}"]
    print(_table(words, report))
    code = _close(report, folder)
    if not code:
        shutil.rmtree(folder)
    return code


def run(seed: int, seconds: float, broker: BrokerName, folder: Path) -> Report:
    """Run the service under work and faults, then check; the folder keeps the history."""
    recorder = Recorder(folder)
    cluster = Cluster(broker, folder, recorder)
    try:
        cluster.start()
        recorder.begin = time.monotonic()
        load, faults = Load(seed, cluster.urls, recorder), Faults(cluster)
        load.start()
        faults.run(schedule(seed, seconds, broker))
        time.sleep(max(0.0, seconds - recorder.now()))
        stuck = faults.end(FAULT_SECONDS)
        load.stop()
        for server in (cluster.postgres, cluster.broker):
            if not server.serves:
                recorder.say(f"{server.name} does not serve: starting it")
                faults.start(server)
        recorder.say("All faults are over; waiting until nothing is left to do")
        url = cluster.stack.database_url
        try:
            for name in COMMANDS:
                cluster.wait_until_working(name)
            eventually(lambda: idle(url, cluster.urls), IDLE_SECONDS, "nothing is left to do")
        except AssertionError as error:
            recorder.say(f"!! {error}")
        recorder.say("Checking")
        found = ending(url, cluster.urls, folder)
        found.save(folder)
    finally:
        cluster.close()
        recorder.close()
    report = check(History.read(folder), found)
    report.other += [f"the fault {name} did not end" for name in stuck]
    return report


def _table(words: Sequence[str], report: Report) -> str:
    """Return the table that is printed at the end."""
    cells = dict(zip(words[::2], words[1::2], strict=True))
    cells |= {
        "accepted": str(report.accepted),
        "ended": str(report.ended),
        "effects": str(report.effects),
        "lost": str(len(report.lost)),
        "twice": str(len(report.twice)),
        "not ended": str(len(report.not_ended)),
        "backwards": str(len(report.backwards)),
        "other": str(len(report.other)),
    }
    columns = [(name.rjust(len(value)), value.rjust(len(name))) for name, value in cells.items()]
    return "\n".join("  ".join(line) for line in zip(*columns, strict=True))


def _close(report: Report, folder: Path) -> int:
    """Print the first findings of each kind; return the exit code."""
    shown: Counter[str] = Counter()
    for finding in report.findings:
        kind = finding.partition(" ")[0]
        shown[kind] += 1
        if shown[kind] <= SHOWN:
            print(f"- {finding}")
    for kind, count in shown.items():
        if count > SHOWN:
            print(f"- {kind} {count - SHOWN} more")
    if not report.findings:
        return 0
    print(f"The history and the logs are in {folder}")
    print(f"Check them again: .venv/bin/python -m tests.chaos --check {folder}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
