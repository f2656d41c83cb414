"""A container's health check, without curl: exits with 0 if the container's process works.

`python healthy.py api` and `python healthy.py flower` ask the process over HTTP. `python healthy.py
worker` checks that PostgreSQL has a lease of a worker of this container.
"""

# ruff: noqa: INP001 - a script, not a package

import os
import socket
import sys
import urllib.request

TIMEOUT = 3


def answers(port: str, path: str) -> bool:
    """Return whether a page of this container answers with 200.

    Raises an error if it does not answer, or answers with an error.
    """
    host = os.environ.get("API_HOST") or "127.0.0.1"
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared only
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}{path}"
    # The environment may name a proxy for other addresses; it is not used here.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(url, timeout=TIMEOUT) as answer:
        return answer.status == 200  # noqa: PLR2004 - OK


def holds_lease() -> bool:
    """Return whether a worker of this container has a lease."""
    # backend.db is not used, because each check would have to import SQLAlchemy.
    import psycopg2  # noqa: PLC0415 - only the worker's check needs it

    address = os.environ["DATABASE_URL"].replace("+psycopg2", "", 1)
    with psycopg2.connect(address, connect_timeout=TIMEOUT) as connection:
        cursor = connection.cursor()
        cursor.execute(
            "SELECT 1 FROM workers WHERE split_part(name, '@', 2) = %s",
            [socket.gethostname()],
        )
        return cursor.fetchone() is not None


def flower_health() -> str:
    """Return the path of Flower's own health check, which never needs a password."""
    prefix = os.environ.get("FLOWER_URL_PREFIX", "").strip("/")
    return f"/{prefix}/healthcheck" if prefix else "/healthcheck"


CHECKS = {
    "api": lambda: answers(os.environ.get("API_PORT") or "8060", "/health/live"),
    "flower": lambda: answers(os.environ.get("FLOWER_PORT") or "5555", flower_health()),
    "worker": holds_lease,
}

try:
    healthy = CHECKS[sys.argv[1]]()
except Exception as error:  # noqa: BLE001 - for any error, `docker inspect` must show one line
    sys.exit(f"{type(error).__name__}: {error}")
sys.exit(None if healthy else "not healthy")
