"""Remove each guard in a copy and check that its tests fail: `make guards`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.documents import NAMES
from tests.support.stack import ROOT

from . import GUARDS, Guard

# The documents are copied too, because a test runs their recipe for migrations.
COPIED = ("backend", "deploy", "examples", "tests", "pyproject.toml", *NAMES)


def holds(guard: Guard) -> bool:
    """Return whether the guard's tests fail without it. Raises SystemExit without its code."""
    with tempfile.TemporaryDirectory(prefix="guards-") as name:
        copy = Path(name)
        for part in COPIED:
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, copy)
        file = copy / guard.file
        text = file.read_text()
        if text.count(guard.code) != 1:
            raise SystemExit(f"{guard.file} does not have this code exactly once: {guard.code}")
        file.write_text(text.replace(guard.code, guard.without))
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-n0", guard.tests],
            cwd=copy,
            # Celery itself refuses pickle for root; our guard is tested without this check.
            env={
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "PYTHONPATH": name,
                "HOME": name,
                "C_FORCE_ROOT": "1",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        last = (done.stdout.strip().splitlines() or [done.stderr.strip()[-200:]])[-1]
        # A test whose setup fails is reported as an error, not as failed.
        held = done.returncode == 1 and "failed" in last
        print(f"{'held' if held else 'NOT HELD':9} {guard.holds}: {last}", flush=True)
        return held


def main() -> None:
    """Check every guard, or those whose title contains an argument.

    Exits with 1 if tests passed without their guard, and with a message if no title contains an
    argument.
    """
    for words in sys.argv[1:]:
        if not any(words in guard.holds for guard in GUARDS):
            sys.exit(f"No guard's title has {words!r}.")
    chosen = [g for g in GUARDS if not sys.argv[1:] or any(w in g.holds for w in sys.argv[1:])]
    results = [holds(guard) for guard in chosen]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
