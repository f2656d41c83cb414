"""What the broker's errors mean, in plain words, and the outage that they belong to.

By the names of their classes: the library of the broker that is not used is not loaded.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from backend.outage import Outage, Reason

broker: Final = Outage("the broker can be used again: tasks go on")


class _Rule(NamedTuple):
    """`cls` names a base class of the error, `pattern` is found in its text."""

    cls: str
    pattern: str
    kind: str
    advice: str
    lasting: bool = False


_LOGIN: Final = ("refuses the login", "check user and password in CELERY_BROKER_URL", True)
_PERMISSION: Final = (
    "refuses permission",
    "let the user of CELERY_BROKER_URL configure, write and read everything there",
    True,
)
# The first that fits. RabbitMQ's errors, then those of Redis and Valkey, then what both share.
_RULES: Final = (
    _Rule("AccessRefused", "Login was refused", *_LOGIN),
    _Rule("AccessRefused", "", *_PERMISSION),
    _Rule(
        "NotAllowed",
        "vhost .* not found",
        "does not know the virtual host",
        "create it, or name another one at the end of CELERY_BROKER_URL",
        lasting=True,
    ),
    _Rule("NotAllowed", "access to vhost", *_PERMISSION),
    _Rule(
        "PreconditionFailed",
        "inequivalent arg",
        "has a queue or exchange of ours with other settings",
        "delete it while no task waits in it, or name another virtual host in CELERY_BROKER_URL",
        lasting=True,
    ),
    _Rule("NotFound", "", "has lost a queue or exchange of ours", "it is made again"),
    _Rule("AuthenticationError", "", *_LOGIN),
    _Rule("AuthenticationWrongNumberOfArgsError", "", *_LOGIN),
    _Rule("NoPermissionError", "", *_PERMISSION),
    _Rule(
        "ResponseError",
        "DB index",
        "does not have the database",
        "name another number at the end of CELERY_BROKER_URL",
        lasting=True,
    ),
    _Rule("OutOfMemoryError", "", "is out of memory", "raise its maxmemory or its host's memory"),
    _Rule(
        "ReadOnlyError",
        "",
        "is a read-only replica",
        "name the primary in CELERY_BROKER_URL, or promote this one",
    ),
    _Rule("ResponseError", "MISCONF", "cannot save to its disk", "check its log and its disk"),
    _Rule(
        "Exception",
        "max number of clients",
        "takes no more connections",
        "raise its maxclients, or end other clients",
    ),
    _Rule(
        "Exception",
        r"\bSSL\b|CERTIFICATE|certificate",
        "fails to agree on TLS",
        "check that CELERY_BROKER_URL names the port for TLS, and the broker's certificate",
        lasting=True,
    ),
    _Rule(
        "Exception",
        "Name or service|Temporary failure in name|No address associated|nodename nor servname",
        "has a host name that cannot be resolved",
        "check the host in CELERY_BROKER_URL",
    ),
)
_AWAY: Final = _Rule("", "", "cannot be reached", "start it, or check CELERY_BROKER_URL")


def explain(error: BaseException) -> Reason:
    """Return what an error of the broker means, with what to do; never with a message's content."""
    classes = {cls.__name__ for cls in type(error).__mro__}
    said = _own_words(error)
    rule = next((r for r in _RULES if r.cls in classes and re.search(r.pattern, said)), _AWAY)
    line = f"the broker {rule.kind} ({said}): {rule.advice}; tasks wait until then"
    return Reason(rule.kind, line, rule.lasting)


def _own_words(error: BaseException) -> str:
    """Return the first line of what the server or the system says, else the error's name."""
    text = getattr(error, "reply_text", None) or getattr(error, "strerror", None) or str(error)
    # redis-py names the command first, with all that was sent.
    text = str(text).rpartition("of pipeline caused error: ")[2].strip()
    line = text.split("\n")[0].split(". For details")[0].rstrip(".")[:200]
    return line or type(error).__name__
