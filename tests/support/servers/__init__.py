"""Private PostgreSQL, RabbitMQ and Redis servers for the tests.

Each has a directory and ports of its own, listens on 127.0.0.1 only, and leaves the
machine's own servers alone. None needs more than Debian's package of it, and
PostgreSQL not even that. All are gone, files included, after `close()`, at exit, and
when the tests are killed.
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
    """Return what is not installed of a server and which package has it; "" if all is there.

    "" too where TESTS_REQUIRE_SERVERS is set: a server that is missing is an error then.
    """
    if os.environ.get("TESTS_REQUIRE_SERVERS"):
        return ""
    try:
        kind().close()
    except Missing as error:
        return str(error)
    return ""
