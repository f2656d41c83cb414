"""Addresses of servers: accepted only if all libraries read them in the same way."""

from __future__ import annotations

from urllib.parse import quote

import pytest
import sqlalchemy
from kombu.utils.url import url_to_parts

from backend import urls
from backend.db import connection
from backend.urls import InvalidSetting

PASSWORD = "a#b/c?d@e:f%g[h];i&j=k+l ü%41"
DATABASE = "postgresql+psycopg2://user:{}@db:5432/tasks"
BROKERS = ["amqp://user:{}@broker:5672//", "amqps://user:{}@broker", "redis://:{}@broker:6379/0"]


def test_a_percent_encoded_password_may_have_any_character() -> None:
    url = urls.database(DATABASE.format(quote(PASSWORD, safe="")))
    found = sqlalchemy.make_url(url)
    assert (found.host, found.port, found.password) == ("db", 5432, PASSWORD)
    for broker in BROKERS:
        parts = url_to_parts(urls.broker(broker.format(quote(PASSWORD, safe=""))))
        assert (parts.hostname, parts.password) == ("broker", PASSWORD)


@pytest.mark.parametrize("sign", [*"#/?@", "b@c/", "b@c?d=", "#12@", "/x@y#"])
def test_a_character_that_must_be_encoded_is_refused_with_its_encoding(sign: str) -> None:
    for check, address in (
        (urls.database, DATABASE),
        *((urls.broker, broker) for broker in BROKERS),
        (urls.results, "redis://:{}@results:6379/0"),
    ):
        with pytest.raises(InvalidSetting, match=r"write @ as %40, .* # as %23") as refused:
            check(address.format(f"secret{sign}12"))
        assert "secret" not in str(refused.value)


@pytest.mark.parametrize("sign", [*":%!$&'()*+,=~^|<>{}", "%zz", " ", "ü"])
def test_every_other_character_is_accepted_unencoded(sign: str) -> None:
    found = sqlalchemy.make_url(urls.database(DATABASE.format(f"a{sign}b")))
    assert (found.host, found.password) == ("db", f"a{sign}b")
    for broker in BROKERS:
        parts = url_to_parts(urls.broker(broker.format(f"a{sign}b")))
        assert (parts.hostname, parts.password) == ("broker", f"a{sign}b")


@pytest.mark.parametrize("sign", ["\t", "\n", "\r", "\0", "\udce4", "[", "]"])
def test_characters_that_libraries_drop_or_cannot_send_are_refused(sign: str) -> None:
    for check, address in ((urls.database, DATABASE), (urls.broker, BROKERS[0])):
        with pytest.raises(ValueError):  # noqa: PT011 - settings.py shows only its own reasons
            check(address.format(f"a{sign}b"))


@pytest.mark.parametrize(
    "url", ["amqp://a:hidden@one//;amqp://a:hidden@two//", "amqp://user:hid;den@broker//"]
)
def test_a_semicolon_between_brokers_or_in_a_password_is_refused(url: str) -> None:
    with pytest.raises(urls.InvalidSetting, match="name one broker") as refused:
        urls.broker(url)
    assert "hid" not in str(refused.value)


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("application_name=mine", "leave application_name out"),
        ("client_encoding=latin1", "leave client_encoding out"),
        ("options=-ctimezone%3DEurope/Berlin", "leave timezone out of its options"),
        ("options=-c%20work_mem%3D8MB%20--Statement-Timeout%3D0", "leave Statement-Timeout out"),
        ("options=-cwork_mem%3D8MB&options=-csearch_path%3Djobs", "options more than once"),
        ("sslmode=disable&sslmode=require", "sslmode more than once"),
        ("nonsense=1", "PostgreSQL's client does not know"),
        ("sslmode=require&nonsense=1", "PostgreSQL's client does not know"),
        ("host=a@b", "write @ as %40"),
    ],
)
def test_parameters_that_would_be_dropped_are_refused(query: str, reason: str) -> None:
    with pytest.raises(InvalidSetting, match=reason):
        urls.database(f"postgresql+psycopg2://user@db/tasks?{query}")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg2://user@/tasks?host=/run/postgresql",
        "postgresql+psycopg2://user@/tasks?host=one:5432&host=two:5432",
        "postgresql+psycopg2://user@one,two:5432/tasks",
        "postgresql+psycopg2://user@[::1]:5432/tasks?sslmode=verify-full&sslrootcert=system",
        "postgresql+psycopg2:///tasks?service=mine",
    ],
)
def test_a_valid_postgresql_address_is_unchanged(url: str) -> None:
    assert urls.database(url) == url


def test_several_ports_are_refused_with_the_correct_form() -> None:
    with pytest.raises(InvalidSetting, match="host=one:5432&host=two:5432"):
        urls.database("postgresql+psycopg2://user@one:5432,two:5432/tasks")


def test_the_refused_parameters_are_those_that_we_set() -> None:
    ours = {*connection._SETTINGS, *connection._UNCHECKED_SETTINGS, "client_encoding"}
    assert ours == urls.OWN_SETTINGS
    url = sqlalchemy.make_url("postgresql+psycopg2://user@db/tasks?connect_timeout=7&keepalives=0")
    arguments = connection.arguments(url, "name")
    assert arguments.keys() >= urls.OWN_PARAMETERS
    assert "connect_timeout" not in arguments, "the value of the address is used"


@pytest.mark.parametrize(
    ("url", "taken"),
    [
        ("rediss://broker/0", "rediss://broker/0?ssl_cert_reqs=required"),
        (
            "rediss://broker/0?ssl_ca_certs=/ca.pem",
            "rediss://broker/0?ssl_ca_certs=/ca.pem&ssl_cert_reqs=required",
        ),
        ("rediss://broker/0?ssl_cert_reqs=none", "rediss://broker/0?ssl_cert_reqs=none"),
        (
            "rediss://broker/0?ssl_cert_reqs=CERT_OPTIONAL",
            "rediss://broker/0?ssl_cert_reqs=CERT_OPTIONAL",
        ),
        ("redis://broker/0", "redis://broker/0"),
    ],
)
def test_tls_verifies_unless_the_address_says_otherwise(url: str, taken: str) -> None:
    assert urls.broker(url) == urls.results(url) == taken


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("rediss://broker/0?ssl_cert_reqs=maybe", "required, optional, none"),
        ("rediss://broker/0?ssl_cert_reqs=", "required, optional, none"),
        ("amqps://broker//?ssl_cert_reqs=maybe", "required, optional, none"),
        ("amqp://broker//?heartbeat=1", "amqp:// takes no parameters"),
        ("amqps://broker//?heartbeat=1", "amqps:// takes only the parameters ssl_ca_certs, "),
        ("redis://broker/0?ssl_cert_reqs=none", "redis:// takes no parameters"),
    ],
)
def test_a_broker_address_may_have_only_tls_parameters(url: str, reason: str) -> None:
    with pytest.raises(InvalidSetting, match=reason):
        urls.broker(url)
