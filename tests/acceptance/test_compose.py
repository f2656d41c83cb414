"""docker-compose.yml and .env.example: checks that start no container."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from backend.settings import Settings
from tests.support.compose import EXAMPLE, PORTS, assignments, without_settings
from tests.support.stack import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping

COMPOSE_FILE = (ROOT / "docker-compose.yml").read_text()
OURS = {"api", "worker", "flower", "migrate"}


@functools.cache
def _compose_is_missing() -> bool:
    if shutil.which("docker") is None:
        return True
    asked = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    return asked.returncode != 0


needs_compose = pytest.mark.skipif(
    _compose_is_missing(),
    reason="docker compose: install Debian's docker-compose package (13 or later)",
)


def _config(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return docker-compose.yml as Compose reads it, without the local .env."""
    ask = ["docker", "compose", "--env-file", os.devnull, "--profile", "*", "config"]
    done = subprocess.run(
        [*ask, "--format", "json"],
        cwd=ROOT,
        env={**without_settings(), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    config: dict[str, Any] = json.loads(done.stdout)
    return config


def _published(config: Mapping[str, Any]) -> set[tuple[str, int]]:
    return {
        (port.get("host_ip", "everywhere"), int(port["published"]))
        for service in config["services"].values()
        for port in service.get("ports", [])
    }


@needs_compose
def test_only_three_ports_are_published_and_on_this_machine_only() -> None:
    assert _published(_config({})) == {("127.0.0.1", port) for port in PORTS.values()}


@needs_compose
def test_each_published_port_can_be_changed() -> None:
    changed = {name: str(port + 1) for name, port in PORTS.items()}
    assert _published(_config(changed)) == {("127.0.0.1", port + 1) for port in PORTS.values()}


@needs_compose
def test_our_containers_have_minimal_privileges() -> None:
    services = _config({})["services"]
    for name in OURS:
        service = services[name]
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


@needs_compose
def test_credentials_from_env_reach_servers_and_clients() -> None:
    services = _config(
        {
            "RABBITMQ_USER": "rabbit",
            "RABBITMQ_PASSWORD": "carrot",
            "POSTGRES_USER": "elephant",
            "POSTGRES_PASSWORD": "peanut",
        }
    )["services"]
    for name in OURS:
        given = services[name]["environment"]
        assert given["CELERY_BROKER_URL"] == "amqp://rabbit:carrot@rabbitmq:5672//"
        assert given["DATABASE_URL"] == (
            "postgresql+psycopg2://elephant:peanut@postgres:5432/tasks"
        )
    assert services["rabbitmq"]["environment"] == {
        "RABBITMQ_DEFAULT_USER": "rabbit",
        "RABBITMQ_DEFAULT_PASS": "carrot",
    }
    assert services["postgres"]["environment"] == {
        "POSTGRES_USER": "elephant",
        "POSTGRES_PASSWORD": "peanut",
        "POSTGRES_DB": "tasks",
    }


def test_env_example_has_every_setting_and_no_other() -> None:
    known = {name.upper() for name in Settings.model_fields}
    known |= set(re.findall(r"\$\{([A-Z_]+)", COMPOSE_FILE))
    assert set(assignments(EXAMPLE)) == known


def test_env_example_shows_defaults_and_sets_nothing() -> None:
    assert not re.findall(r"^[^#\n]", EXAMPLE, re.MULTILINE)
    shown = assignments(EXAMPLE)
    for name, field in Settings.model_fields.items():
        if field.default and not field.default_factory:
            assert shown[name.upper()] == str(field.default), name
    for name, default in re.findall(r"\$\{([A-Z_]+):-(\w+)\}", COMPOSE_FILE):
        # `docker compose down` may take longer than Ctrl+C in a terminal.
        assert default == ("25" if name == "STOP_SECONDS" else shown[name])
