"""Checks of the settings that are URLs: of PostgreSQL, of the broker, and of results in Redis.

A client library may understand an address differently from the person who wrote it: it would
connect to another host, or ignore a part. So an address that is ambiguous or has such parts is
refused. Errors never have a part of the address that may be a password.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import SplitResult, parse_qsl, urlsplit

import psycopg2
import sqlalchemy
from psycopg2.extensions import make_dsn

# The service sets these for its connections itself; see db/connection.py.
OWN_PARAMETERS: Final = frozenset({"application_name", "client_encoding"})
OWN_SETTINGS: Final = frozenset(
    {
        "client_encoding",
        "datestyle",
        "idle_in_transaction_session_timeout",
        "lock_timeout",
        "statement_timeout",
        "tcp_keepalives_count",
        "tcp_keepalives_idle",
        "tcp_keepalives_interval",
        "tcp_user_timeout",
        "timezone",
    }
)
# `-c name=value` and `--name=value`.
_SERVER_SETTING: Final = re.compile(r"(?:-c\s*|--)([\w.-]+)\s*=")

_TLS: Final = frozenset({"ssl_ca_certs", "ssl_cert_reqs", "ssl_certfile", "ssl_keyfile"})
_BROKER_PARAMETERS: Final = {
    "amqp": frozenset[str](),
    "amqps": _TLS,
    "redis": frozenset[str](),
    "rediss": _TLS | {"ssl_check_hostname"},
    "redis+socket": frozenset({"virtual_host"}),
}
_CERT_REQS: Final = ("required", "optional", "none")
_ENCODE: Final = (
    "in a user, a password and a parameter write @ as %40, : as %3A, / as %2F, ? as %3F, # as %23,"
    " ; as %3B and % as %25"
)


class InvalidSetting(ValueError):
    """A value cannot be used; the message says why, without parts that may be secret."""


def database(url: str) -> str:
    """Return the address of PostgreSQL. Raises ValueError for one that cannot be used as it is."""
    if not url:
        return url
    _split(url, "postgresql+psycopg2")
    try:
        query = sqlalchemy.make_url(url).query
    except sqlalchemy.exc.ArgumentError:
        raise ValueError from None
    for name, value in query.items():
        if not isinstance(value, str) and name != "host":
            raise InvalidSetting(f"it has {name} more than once")
        if name in OWN_PARAMETERS:
            raise InvalidSetting(f"leave {name} out, the service sets it")
    try:
        make_dsn(**dict.fromkeys(query, "x"))
    except psycopg2.ProgrammingError:
        raise InvalidSetting("it has a parameter that PostgreSQL's client does not know") from None
    for name in _SERVER_SETTING.findall(str(query.get("options", ""))):
        if name.lower().replace("-", "_") in OWN_SETTINGS:
            raise InvalidSetting(f"leave {name} out of its options, the service sets it")
    return url


def broker(url: str) -> str:
    """Return the address of the broker.

    TLS of Redis verifies the server's certificate unless the address says something else. Raises
    ValueError for an address that cannot be used as it is.
    """
    if not url:
        return url
    if ";" in url:  # Celery would take it for the addresses of several brokers
        raise InvalidSetting(f"name one broker; {_ENCODE}")
    parts = _split(url, *_BROKER_PARAMETERS)
    known = _BROKER_PARAMETERS[parts.scheme]
    if any(name not in known for name, _ in parse_qsl(parts.query, keep_blank_values=True)):
        allowed = f"only the parameters {', '.join(sorted(known))}" if known else "no parameters"
        raise InvalidSetting(f"{parts.scheme}:// takes {allowed}")
    return _verified(url, parts)


def results(url: str) -> str:
    """Return the address for results, with TLS as for the broker. Raises ValueError as `broker`."""
    parts = _split(url, "rpc", "redis", "rediss")
    if parts.scheme == "redis" and "ssl_" in parts.query:
        raise InvalidSetting("TLS has the scheme rediss://")
    return _verified(url, parts)


def _split(url: str, *schemes: str) -> SplitResult:
    """Return the parts of an address. Raises ValueError if libraries may read it differently."""
    parts = urlsplit(url)
    if parts.scheme not in schemes or "://" not in url:
        raise ValueError
    # Some libraries drop these.
    if any(sign < " " for sign in url):
        raise InvalidSetting("it has a line end, a tab or another control character")
    url.encode()  # raises UnicodeEncodeError, a ValueError, for bytes that are not UTF-8
    rest = url.partition("://")[2]
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    if rest.count("@") > authority.count("@") or authority.count("@") > 1 or "#" in rest:
        raise InvalidSetting(_ENCODE)
    if re.search(":.*,", authority.rpartition("@")[2]):
        raise InvalidSetting("name several hosts as ?host=one:5432&host=two:5432")
    parts.port  # noqa: B018 - raises ValueError
    return parts


def _verified(url: str, parts: SplitResult) -> str:
    required = dict(parse_qsl(parts.query, keep_blank_values=True)).get("ssl_cert_reqs")
    if required is None and parts.scheme == "rediss":
        # Celery requires the parameter for results. For the broker, kombu would verify nothing.
        return f"{url}{'&' if parts.query else '?'}ssl_cert_reqs=required"
    if required not in {None, *_CERT_REQS, *(f"CERT_{each.upper()}" for each in _CERT_REQS)}:
        raise InvalidSetting(f"ssl_cert_reqs is one of {', '.join(_CERT_REQS)}")
    return url
