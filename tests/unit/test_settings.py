"""Settings: which values are refused, with which text, and which are accepted unchanged."""

from __future__ import annotations

import os

import pytest

from backend.settings import SettingsError, settings
from tests.support.settings import refused

pytestmark = pytest.mark.usefixtures("only_our_environment")


def test_the_defaults_match_the_design() -> None:
    found = settings()
    assert found.celery_result_backend == "rpc://"
    assert (found.api_host, found.api_port, found.api_workers) == ("127.0.0.1", 8060, 1)
    assert (found.flower_port, found.flower_basic_auth) == (5555, None)
    assert found.worker_concurrency == os.cpu_count()
    assert (found.max_tasks_per_child, found.max_memory_per_child) == (None, None)
    assert found.log_level == "INFO"
    assert found.queue_prefix == ""


def test_localhost_is_read_as_an_ipv4_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_HOST", "localhost")
    assert settings().api_host == "127.0.0.1"


NONSENSE = [
    ("DATABASE_URL", "mysql://root:hidden@db/tasks"),
    ("DATABASE_URL", "postgresql://user:hidden@db/tasks"),
    ("DATABASE_URL", "hidden"),
    ("DATABASE_URL", "postgresql+psycopg2://user:hidden@db:port/tasks"),
    ("DATABASE_URL", "postgresql+psycopg2://user:hidden@[db/tasks"),
    ("CELERY_BROKER_URL", "http://user:hidden@broker"),
    ("CELERY_BROKER_URL", "hidden:5672"),
    ("CELERY_BROKER_URL", "amqp://user:hidden@broker:99999//"),
    ("QUEUE_PREFIX", "hidden/"),
    ("QUEUE_PREFIX", "hidden tasks"),
    ("QUEUE_PREFIX", "hidden\n"),
    ("QUEUE_PREFIX", "ü"),
    ("QUEUE_PREFIX", 65 * "a"),
    ("QUEUE_PREFIX", "amq.hidden"),
    ("QUEUE_PREFIX", "reply."),
    ("QUEUE_PREFIX", "hidden_short_"),
    ("CELERY_RESULT_BACKEND", "db+sqlite:///hidden"),
    ("CELERY_RESULT_BACKEND", "hidden"),
    ("CELERY_RESULT_BACKEND", "redis://:hidden@redis:port/0"),
    ("API_PORT", "0"),
    ("API_PORT", "65536"),
    ("API_PORT", "hidden"),
    ("API_PORT", "80.5"),
    ("API_WORKERS", "0"),
    ("API_WORKERS", "65"),
    ("API_WORKERS", "hidden"),
    ("FLOWER_PORT", "-1"),
    ("FLOWER_BASIC_AUTH", "hidden"),
    ("FLOWER_BASIC_AUTH", ":hidden"),
    ("FLOWER_BASIC_AUTH", "user:"),
    ("FLOWER_BASIC_AUTH", "user:hid,den"),
    ("FLOWER_BASIC_AUTH", "user:hidden,"),
    ("FLOWER_BASIC_AUTH", "us,er:hidden"),
    ("FLOWER_BASIC_AUTH", "user:hidden,other:hidden"),
    ("FLOWER_BASIC_AUTH", "user:hiddén"),
    ("FLOWER_BASIC_AUTH", "usér:hidden"),
    ("FLOWER_BASIC_AUTH", "user:hidden\n"),
    ("FLOWER_BASIC_AUTH", "user:hid\tden"),
    ("FLOWER_BASIC_AUTH", "user:hidden\x7f"),
    ("FLOWER_URL_PREFIX", "/hid den"),
    ("FLOWER_URL_PREFIX", "/hidden(.*)"),
    ("FLOWER_URL_PREFIX", "http://hidden/flower"),
    ("ROOT_PATH", "/hidden?x"),
    ("ROOT_PATH", "/hidden#x"),
    ("ROOT_PATH", "/hid%20den"),
    ("ROOT_PATH", "/hidden/../x"),
    ("ROOT_PATH", "/hidden//x"),
    ("ROOT_PATH", "/hiddén"),
    ("ROOT_PATH", "https://hidden.example"),
    ("ROOT_PATH", "/tasks"),
    ("ROOT_PATH", "/docs/hidden/"),
    ("FORWARDED_ALLOW_IPS", "hidden"),
    ("FORWARDED_ALLOW_IPS", "127.0.0.1,"),
    ("FORWARDED_ALLOW_IPS", "127.0.0.1 10.0.0.1"),
    ("FORWARDED_ALLOW_IPS", "10.0.0.1/8"),
    ("FORWARDED_ALLOW_IPS", "127.0.0.1,*"),
    ("FORWARDED_ALLOW_IPS", "127.0.0.1:8060"),
    ("WORKER_CONCURRENCY", "0"),
    ("WORKER_CONCURRENCY", "many"),
    ("MAX_TASKS_PER_CHILD", "0"),
    ("MAX_TASKS_PER_CHILD", "hidden"),
    ("STOP_SECONDS", "-1"),
    ("WORKER_QUEUES", "tasks,,short_tasks"),
    ("MAX_MEMORY_PER_CHILD", "-1"),
    ("MAX_MEMORY_PER_CHILD", "500M"),
    ("RETENTION_DAYS", "0"),
    ("RETENTION_DAYS", "3651"),
    ("RETENTION_DAYS", "1.5"),
    ("RETENTION_DAYS", "hidden"),
    ("LOG_LEVEL", "hidden"),
    ("LOG_LEVEL", "20"),
]


@pytest.mark.parametrize(("name", "value"), NONSENSE)
def test_an_invalid_value_is_refused_in_one_line_with_the_setting_but_not_the_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as refused:
        settings()
    lines = str(refused.value).splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"{name} must be ")
    assert "hidden" not in lines[0]
    assert refused.value.__suppress_context__, "a traceback would show the value"


def test_each_invalid_setting_has_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_PORT", "x")
    monkeypatch.setenv("LOG_LEVEL", "x")
    with pytest.raises(SettingsError) as refused:
        settings()
    assert [line.split()[0] for line in str(refused.value).splitlines()] == [
        "API_PORT",
        "LOG_LEVEL",
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CELERY_BROKER_URL", "redis://broker:6379/0"),
        ("CELERY_BROKER_URL", "amqps://broker"),
        ("CELERY_RESULT_BACKEND", "redis://broker:6379/0"),
        ("DATABASE_URL", "postgresql+psycopg2://user@/tasks?host=/run/postgresql"),
        ("FLOWER_BASIC_AUTH", "user:pass:word"),
        ("FLOWER_BASIC_AUTH", "user:correct horse"),
        ("FLOWER_BASIC_AUTH", "a user: #=$'\"\\~%* "),
        ("FLOWER_URL_PREFIX", "/flower"),
        ("ROOT_PATH", "/a/b-c_d.e~f/0"),
        ("ROOT_PATH", "/tasks-api"),
        ("ROOT_PATH", "/api/tasks"),
        ("FORWARDED_ALLOW_IPS", "*"),
        ("FORWARDED_ALLOW_IPS", "127.0.0.1, ::1,10.0.0.0/8"),
        ("QUEUE_PREFIX", "Staging-EU_1."),
        ("QUEUE_PREFIX", 64 * "a"),
        ("LOG_LEVEL", "DEBUG"),
    ],
)
def test_valid_values_are_accepted_unchanged(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert getattr(settings(), name.lower()) == value


@pytest.mark.parametrize("name", ["ROOT_PATH", "FLOWER_URL_PREFIX"])
@pytest.mark.parametrize(
    ("written", "meant"),
    [("jobs", "/jobs"), ("/jobs/", "/jobs"), ("a/b/", "/a/b"), ("/", ""), ("", "")],
)
def test_a_prefix_begins_with_a_slash_and_ends_without_one(
    monkeypatch: pytest.MonkeyPatch, name: str, written: str, meant: str
) -> None:
    monkeypatch.setenv(name, written)
    assert getattr(settings(), name.lower()) == meant


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1", "localhost"),
        ("0.0.0.0", "localhost"),
        ("::", "localhost"),
        ("127.0.0.2", "127.0.0.2"),
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "[2001:db8::1]"),
        ("host.example", "host.example"),
    ],
)
def test_the_own_host_is_the_listening_address(
    monkeypatch: pytest.MonkeyPatch, host: str, own: str
) -> None:
    monkeypatch.setenv("API_HOST", host)
    assert settings().own_host == own


@pytest.mark.parametrize("name", ["API_PORT", "FLOWER_PORT"])
def test_a_port_variable_set_by_kubernetes_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "tcp://10.0.0.1:8060")
    assert refused().startswith(f"{name} must be a port from 1 to 65535; Kubernetes sets it")
    assert "enableServiceLinks: false" in refused()
    monkeypatch.setenv(name, "udp://10.0.0.1:53")
    assert "enableServiceLinks: false" in refused()


def test_an_empty_value_means_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_PORT", "")
    monkeypatch.setenv("FLOWER_BASIC_AUTH", "")
    assert (settings().api_port, settings().flower_basic_auth) == (8060, None)


def test_settings_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = settings()
    monkeypatch.setenv("API_PORT", "1")
    assert settings() is first
