"""The outage of the broker: what its errors mean, and what to do, in one line of the log."""

from __future__ import annotations

from typing import Final

from backend.telemetry.outage import Outage, Reason, Rule, first_rule

broker_outage: Final = Outage("the broker can be used again: tasks go on")

_LOGIN: Final = ("refuses the login", "check user and password in CELERY_BROKER_URL", True)
_PERMISSION: Final = (
    "refuses permission",
    "let the user of CELERY_BROKER_URL configure, write and read everything there",
    True,
)
# RabbitMQ's errors, then those of Redis and Valkey, then what both share.
_RULES: Final = (
    Rule("Login was refused", *_LOGIN, cls="AccessRefused"),
    Rule("", *_PERMISSION, cls="AccessRefused"),
    Rule(
        "vhost .* not found",
        "does not know the virtual host",
        "create it, or name another one at the end of CELERY_BROKER_URL",
        needs_operator=True,
        cls="NotAllowed",
    ),
    Rule("access to vhost", *_PERMISSION, cls="NotAllowed"),
    Rule(
        "inequivalent arg",
        "has a queue or exchange of ours with other settings",
        "delete it while no task waits in it, or name another virtual host in CELERY_BROKER_URL",
        needs_operator=True,
        cls="PreconditionFailed",
    ),
    Rule("", "has lost a queue or exchange of ours", "it is made again", cls="NotFound"),
    Rule("", *_LOGIN, cls="AuthenticationError"),
    Rule("", *_LOGIN, cls="AuthenticationWrongNumberOfArgsError"),
    Rule("", *_PERMISSION, cls="NoPermissionError"),
    Rule(
        "DB index",
        "does not have the database",
        "name another number at the end of CELERY_BROKER_URL",
        needs_operator=True,
        cls="ResponseError",
    ),
    Rule(
        "",
        "is out of memory",
        "raise its maxmemory or its host's memory",
        cls="OutOfMemoryError",
    ),
    Rule(
        "",
        "is a read-only replica",
        "name the primary in CELERY_BROKER_URL, or promote this one",
        cls="ReadOnlyError",
    ),
    Rule(
        "MISCONF",
        "cannot save to its disk",
        "check its log and its disk",
        cls="ResponseError",
    ),
    Rule(
        "max number of clients",
        "takes no more connections",
        "raise its maxclients, or end other clients",
    ),
    Rule(
        r"\bSSL\b|CERTIFICATE|certificate",
        "cannot set up TLS with us",
        "check that CELERY_BROKER_URL names the port for TLS, and the broker's certificate",
        needs_operator=True,
    ),
    Rule(
        "Name or service|Temporary failure in name|No address associated|nodename nor servname",
        "has a host name that cannot be resolved",
        "check the host in CELERY_BROKER_URL",
    ),
    Rule("", "cannot be reached", "start it, or check CELERY_BROKER_URL"),
)


def explain(error: BaseException) -> Reason:
    """Return the reason of an error of the broker, and what to do, without a message's content."""
    said = _own_words(error)
    rule = first_rule(_RULES, error, said)
    line = f"the broker {rule.kind} ({said}): {rule.advice}; until it works again, tasks wait"
    return Reason(rule.kind, line, rule.needs_operator)


def _own_words(error: BaseException) -> str:
    """Return the first line of what the server or the system says, else the error's name."""
    text = getattr(error, "reply_text", None) or getattr(error, "strerror", None) or str(error)
    # redis-py names the command first, with all that was sent.
    text = str(text).rpartition("of pipeline caused error: ")[2].strip()
    line = text.split("\n")[0].split(". For details")[0].rstrip(".")[:200]
    return line or type(error).__name__
