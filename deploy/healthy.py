"""A container's health check, without curl: exits with 0 where its process works.

`python healthy.py api` and `flower` ask the process over HTTP, `worker` whether PostgreSQL has a
lease that the worker of this container has renewed.
"""

# ruff: noqa: INP001 - a script, not a package

import os
import socket
import sys
import urllib.request

TIMEOUT = 3


def answers(port: str, path: str) -> bool:
    """Return whether a page of this container answers; an error raises."""
    host = os.environ.get("API_HOST") or "127.0.0.1"
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared only
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}{path}"
    # Not through a proxy that the environment names for other addresses.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(url, timeout=TIMEOUT) as answer:
        return answer.status == 200  # noqa: PLR2004 - OK


def holds_lease() -> bool:
    """Return whether a worker of this container has a lease."""
    # Not through backend.db: a check every few seconds must not cost the import of SQLAlchemy.
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
    """Return the path of Flower's own health check, open even with FLOWER_BASIC_AUTH."""
    prefix = os.environ.get("FLOWER_URL_PREFIX", "").strip("/")
    return f"/{prefix}/healthcheck" if prefix else "/healthcheck"


CHECKS = {
    "api": lambda: answers(os.environ.get("API_PORT") or "8060", "/health/live"),
    "flower": lambda: answers(os.environ.get("FLOWER_PORT") or "5555", flower_health()),
    "worker": holds_lease,
}

try:
    healthy = CHECKS[sys.argv[1]]()
except Exception as error:  # noqa: BLE001 - whatever it is, `docker inspect` is to show one line
    sys.exit(f"{type(error).__name__}: {error}")
sys.exit(None if healthy else "not healthy")
