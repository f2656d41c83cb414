"""PostgreSQL's outages: why it cannot be used, and what to do, in one line of the log."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from backend.outage import Outage, Reason

postgresql: Final = Outage("PostgreSQL can be used again")

# After an error that cuts off everybody one success is enough. But not at once: a pool may still
# have a connection that works.
_QUIET: Final = 2.0
# Reads succeed on a server that is read-only, and open connections on one that takes no new ones.
_PARTLY_QUIET: Final = 60.0


class _Rule(NamedTuple):
    """`code` is a SQLSTATE, which an error of connecting does not have; `pattern` its text."""

    code: str
    pattern: str
    kind: str
    advice: str
    quiet: float = _QUIET

    def fits(self, code: str, said: str) -> bool:
        """Return whether an error is of this kind."""
        return code == self.code if code else re.search(self.pattern, said) is not None


# Where the server is, which the settings say too.
_WHERE: Final = re.compile(r"^connection to server (at|on) .* failed: (FATAL: +)?")
_RULES: Final = (
    _Rule(
        "",
        "password|authentication failed|no pg_hba.conf entry",
        "refuses the login",
        "check user and password in DATABASE_URL, and the server's pg_hba.conf",
    ),
    _Rule("", "role .* does not exist", "refuses the login", "check the user in DATABASE_URL"),
    _Rule(
        "",
        "database .* does not exist",
        "does not have the database",
        "create it and run `tasks-api migrate`, or name another one in DATABASE_URL",
    ),
    _Rule(
        "",
        "could not translate host name",
        "has a host name that cannot be resolved",
        "check the host in DATABASE_URL",
    ),
    _Rule(
        "53300",
        "too many clients|too many connections|remaining connection slots",
        "takes no more connections",
        "raise its max_connections, or end other clients",
        _PARTLY_QUIET,
    ),
    _Rule(
        "25006",
        "read-only",
        "is read-only",
        "name the primary in DATABASE_URL, or promote this one",
        _PARTLY_QUIET,
    ),
    _Rule(
        "53100",
        "No space left",
        "stores nothing, since its disk is full",
        "free disk space",
        _PARTLY_QUIET,
    ),
    _Rule(
        "42P01",
        "relation .* does not exist",
        "has no tables of ours, or old ones",
        "run `tasks-api migrate`",
    ),
    _Rule(
        "42703",
        "column .* does not exist",
        "has no tables of ours, or old ones",
        "run `tasks-api migrate`",
    ),
    _Rule(
        "",
        "QueuePool limit",
        "is slow: all connections of this process are in use",
        "look for locks and slow statements in it",
        _PARTLY_QUIET,
    ),
    _Rule(
        "",
        "pooler drops its options",
        "cannot be used with this DATABASE_URL",
        "remove the options there, and set them for the role (ALTER ROLE ... IN DATABASE ... SET"
        " search_path = ...)",
    ),
    _Rule("", "SSL", "fails to agree on TLS", "check sslmode in DATABASE_URL"),
)
_AWAY: Final = _Rule("", "", "cannot be reached", "start it, or check DATABASE_URL")


def explain(error: BaseException) -> Reason:
    """Return why PostgreSQL cannot be used, in its own words without a statement."""
    cause = getattr(error, "orig", None) or error
    code = getattr(cause, "pgcode", None) or ""
    said = _own_words(cause)
    rule = next((rule for rule in _RULES if rule.fits(code, said)), _AWAY)
    return Reason(rule.kind, f"PostgreSQL {rule.kind} ({said}): {rule.advice}", quiet=rule.quiet)


def _own_words(cause: BaseException) -> str:
    """Return one line of an error, without the lines that show the statement."""
    text = getattr(getattr(cause, "diag", None), "message_primary", None) or str(cause)
    lines = text.strip().split("\n")
    # libpq tries each address of a host. What a server has answered says most.
    line = next((line for line in lines if "FATAL:" in line), lines[0])
    return _WHERE.sub("", line)[:200] or type(cause).__name__
