"""PostgreSQL's outages: why it cannot be used, and what to do, in one line of the log."""

from __future__ import annotations

import re
from typing import Final

from backend.telemetry.outage import Outage, Reason, Rule, first_rule

postgresql_outage: Final = Outage("PostgreSQL can be used again")

# Seconds without a failure before the outage is over: a pool may still have a working connection.
_RECOVERY_SECONDS: Final = 2.0
# Longer, because reads on a read-only server and statements on open connections still succeed.
_PARTIAL_RECOVERY_SECONDS: Final = 60.0

# The server's address is removed from log lines; the settings have it.
_WHERE: Final = re.compile(r"^connection to server (at|on) .* failed: (FATAL: +)?")
# The pattern is searched in the SQLSTATE of an error that has one, else in its text.
_RULES: Final = (
    Rule(
        "password|authentication failed|no pg_hba.conf entry",
        "refuses the login",
        "check user and password in DATABASE_URL, and the server's pg_hba.conf",
    ),
    Rule("role .* does not exist", "refuses the login", "check the user in DATABASE_URL"),
    Rule(
        "database .* does not exist",
        "does not have the database",
        "create it and run `tasks-api migrate`, or name another one in DATABASE_URL",
    ),
    Rule(
        "could not translate host name",
        "has a host name that cannot be resolved",
        "check the host in DATABASE_URL",
    ),
    Rule(
        "^53300$|too many clients|too many connections|remaining connection slots",
        "takes no more connections",
        "raise its max_connections, or end other clients",
        recovery_seconds=_PARTIAL_RECOVERY_SECONDS,
    ),
    Rule(
        "^25006$|read-only",
        "is read-only",
        "name the primary in DATABASE_URL, or promote this one",
        recovery_seconds=_PARTIAL_RECOVERY_SECONDS,
    ),
    Rule(
        "^53100$|No space left",
        "stores nothing, since its disk is full",
        "free disk space",
        recovery_seconds=_PARTIAL_RECOVERY_SECONDS,
    ),
    Rule(
        "^42P01$|^42703$|(relation|column) .* does not exist",
        "has no tables of ours, or old ones",
        "run `tasks-api migrate`",
    ),
    Rule(
        "QueuePool limit",
        "is slow: all connections of this process are in use",
        "look for locks and slow statements in it",
        recovery_seconds=_PARTIAL_RECOVERY_SECONDS,
    ),
    Rule(
        "pooler drops its options",
        "cannot be used with this DATABASE_URL",
        "remove the options there, and set them for the role (ALTER ROLE ... IN DATABASE ... SET"
        " search_path = ...)",
    ),
    Rule("SSL", "cannot set up TLS with us", "check sslmode in DATABASE_URL"),
    Rule("", "cannot be reached", "start it, or check DATABASE_URL"),
)


def explain(error: BaseException) -> Reason:
    """Return why PostgreSQL cannot be used: its own message, without the statement."""
    cause = getattr(error, "orig", None) or error
    said = _own_words(cause)
    rule = first_rule(_RULES, cause, getattr(cause, "pgcode", None) or said)
    line = f"PostgreSQL {rule.kind} ({said}): {rule.advice}"
    return Reason(rule.kind, line, recovery_seconds=rule.recovery_seconds or _RECOVERY_SECONDS)


def _own_words(cause: BaseException) -> str:
    """Return one line of an error, without the lines that show the statement."""
    text = getattr(getattr(cause, "diag", None), "message_primary", None) or str(cause)
    lines = text.strip().split("\n")
    # libpq tries each address of a host. The answer of a server is the most useful line.
    line = next((line for line in lines if "FATAL:" in line), lines[0])
    return _WHERE.sub("", line)[:200] or type(cause).__name__
