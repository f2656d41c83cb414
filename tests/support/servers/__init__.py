"""Private PostgreSQL, RabbitMQ and Redis servers for the tests.

Each has its own directory and ports, listens on 127.0.0.1 only, and does not affect other servers
of the machine. Each needs only Debian's package; PostgreSQL can also use its wheel. A server and
its files are removed at `close()`, at exit, and when the tests are killed.
"""

import functools
import os
from collections.abc import Callable

from .postgres import PgBouncer, Postgres
from .processes import Missing, find_program, port_answers, tree
from .rabbitmq import RabbitMQ
from .redis import Redis
from .server import Server

__all__ = [
    "Missing",
    "PgBouncer",
    "Postgres",
    "RabbitMQ",
    "Redis",
    "Server",
    "find_program",
    "missing",
    "port_answers",
    "tree",
]


@functools.cache
def missing(kind: Callable[[], Postgres | RabbitMQ | Redis]) -> str:
    """Return which program of a server is missing, with its package; "" if all are installed.

    Also "" if TESTS_REQUIRE_SERVERS is set: then a missing server is an error.
    """
    if os.environ.get("TESTS_REQUIRE_SERVERS"):
        return ""
    try:
        kind().close()
    except Missing as error:
        return str(error)
    return ""
