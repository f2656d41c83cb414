"""Explanations of errors of brokers and PostgreSQL; no content is logged."""

from __future__ import annotations

import socket
import ssl

import amqp
import psycopg2
import pytest
import redis

from backend.broker.outage import explain
from backend.db.outage import explain as explain_postgresql

REASONS = [
    (
        amqp.NotAllowed("NOT_ALLOWED - access to vhost 'v' refused for user 'u'", (10, 40)),
        "the broker refuses permission (NOT_ALLOWED - access to vhost 'v' refused for",
        True,
    ),
    (
        amqp.NotAllowed("NOT_ALLOWED - vhost jobs not found", (10, 40)),
        "the broker does not know the virtual host (NOT_ALLOWED - vhost jobs not found): ",
        True,
    ),
    (
        amqp.PreconditionFailed("PRECONDITION_FAILED - inequivalent arg 'x-max-priority'"),
        "the broker has a queue or exchange of ours with other settings (PRECONDITION_FAILED",
        True,
    ),
    (
        amqp.ConnectionForced("CONNECTION_FORCED - broker forced connection closure"),
        "the broker cannot be reached (CONNECTION_FORCED - broker forced connection closure)",
        False,
    ),
    (
        ConnectionRefusedError(111, "Connection refused"),
        "the broker cannot be reached (Connection refused): start it, or check",
        False,
    ),
    (
        socket.gaierror(-2, "Name or service not known"),
        "the broker has a host name that cannot be resolved (Name or service not known)",
        False,
    ),
    (
        ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)"),
        "the broker cannot set up TLS with us ([SSL: WRONG_VERSION_NUMBER] wrong version number",
        True,
    ),
    (
        redis.AuthenticationError("invalid username-password pair or user is disabled."),
        "the broker refuses the login (invalid username-password pair or user is disabled):",
        True,
    ),
    (
        redis.ResponseError("DB index is out of range"),
        "the broker does not have the database (DB index is out of range): name another number",
        True,
    ),
    (
        redis.ResponseError("MISCONF Redis is configured to save RDB snapshots, but"),
        "the broker cannot save to its disk (MISCONF Redis is configured to save RDB snapshots",
        False,
    ),
    (
        redis.ConnectionError("max number of clients reached"),
        "the broker takes no more connections (max number of clients reached): raise",
        False,
    ),
    (TimeoutError(), "the broker cannot be reached (TimeoutError): start it", False),
]


@pytest.mark.parametrize(("error", "line", "needs_operator"), REASONS)
def test_a_broker_error_is_explained_with_a_remedy(
    error: Exception, line: str, *, needs_operator: bool
) -> None:
    reason = explain(error)
    assert reason.line.startswith(line)
    assert reason.needs_operator is needs_operator


def test_the_line_does_not_contain_what_was_sent() -> None:
    words = "command not allowed when used memory > 'maxmemory'."
    sent = 'Command # 1 (LPUSH tasks {"body": "a secret"}) of pipeline caused error: '
    line = explain(redis.OutOfMemoryError(sent + words)).line
    assert line.startswith(f"the broker is out of memory ({words.rstrip('.')})")


WHERE = 'connection to server at "db" (10.0.0.1), port 5432 failed: '


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            WHERE + 'FATAL:  password authentication failed for user "u"\n',
            'PostgreSQL refuses the login (password authentication failed for user "u"): check',
        ),
        (
            WHERE + "Connection refused\n\tIs the server running?\n" + WHERE + "FATAL:  sorry, too"
            " many clients already\n",
            "PostgreSQL takes no more connections (sorry, too many clients already): raise its",
        ),
        (
            'could not translate host name "db" to address: Name or service not known\n',
            "PostgreSQL has a host name that cannot be resolved (could not translate host name",
        ),
        (
            WHERE + "Connection refused\n\tIs the server running on that host?\n",
            "PostgreSQL cannot be reached (Connection refused): start it, or check DATABASE_URL",
        ),
        (
            'relation "tasks" does not exist\nLINE 1: SELECT secret FROM tasks\n',
            'PostgreSQL has no tables of ours, or old ones (relation "tasks" does not exist): run',
        ),
    ],
)
def test_a_postgresql_error_is_explained_without_the_statement(text: str, line: str) -> None:
    explained = explain_postgresql(psycopg2.OperationalError(text)).line
    assert explained.startswith(line)
    assert "secret" not in explained
    assert "\n" not in explained


class Coded(Exception):
    """An error with a SQLSTATE, of a server that uses another language."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.pgcode = code


def test_a_postgresql_error_is_explained_by_its_sqlstate_not_its_text() -> None:
    read_only = explain_postgresql(Coded("25006", "nur lesend"))
    assert read_only.line.startswith("PostgreSQL is read-only (nur lesend): name the primary")
    away = explain_postgresql(Coded("57P01", "the password of too many clients"))
    assert away.line.startswith("PostgreSQL cannot be reached (the password of too many clients)")
    assert (read_only.recovery_seconds, away.recovery_seconds) == (60, 2)
