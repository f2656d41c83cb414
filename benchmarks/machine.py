"""The machine, the servers and the packages of a run."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.processes import ROOT
from benchmarks.servers import Database, durability

if TYPE_CHECKING:
    from benchmarks.session import Bench

PACKAGES = (
    "fastapi", "starlette", "uvicorn", "celery", "kombu", "sqlalchemy", "psycopg2-binary",
    "flower", "taskiq", "taskiq-aio-pika", "procrastinate", "pycurl",
)  # fmt: skip


def describe(bench: Bench) -> dict[str, object]:
    """Return the facts that a reader needs to judge the figures, such as versions."""
    database = Database(bench.postgres.url)
    rabbitmq = bench.broker.eval("rabbit_misc:version()").strip('"')
    return {
        "processor": _field("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": _field("/proc/meminfo", "MemTotal"),
        "load before": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        "postgresql": str(database.query("SHOW server_version")[0][0]),
        "durability": durability(database),
        "rabbitmq": rabbitmq,
        "packages": {name: version(name) for name in PACKAGES},
        "commit": _git("rev-parse", "--short", "HEAD"),
        "changed files": len(_git("status", "--porcelain").splitlines()),
    }


def _field(path: str, name: str) -> str:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    found = (line.split(":", 1)[1].strip() for line in lines if line.startswith(name))
    return next(found, "")


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip()
