"""The command: errors about unavailable ports, and the exit code of a worker."""

from __future__ import annotations

import errno
import socket

import pytest

from backend import cli, ports
from backend.broker.app import app
from tests.support.ports import free_port


def said(host: str, port: int) -> str:
    with pytest.raises(SystemExit) as ended:
        ports.refuse_taken(host, port, "API_PORT")
    return str(ended.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost", "::1", "::"])
def test_a_free_port_is_accepted_and_a_used_one_refused(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    port = free_port()
    with socket.socket(family) as listener:
        try:
            listener.bind((host, 0))
        except OSError:
            pytest.skip("there is no such address here")
        ports.refuse_taken(host, port, "API_PORT")
        listener.listen()
        port = listener.getsockname()[1]
        expected = f"tasks-api: port {port} is taken; stop what uses it or set API_PORT"
        assert said(host, port) == expected


def test_an_unavailable_host_is_reported_with_its_setting() -> None:
    unresolved = said("nowhere.invalid", 8060)
    assert unresolved.startswith("tasks-api: nowhere.invalid cannot be resolved (")
    assert unresolved.endswith("; set API_HOST")
    assert "set API_HOST" in said("a..b", 8060)
    elsewhere = said("192.0.2.1", 8060)
    assert elsewhere.startswith("tasks-api: cannot listen on 192.0.2.1 (")
    assert elsewhere.endswith("; set API_HOST")


def test_a_privileged_port_is_reported_with_its_setting() -> None:
    """The port is not opened: some systems allow everybody to listen on it."""
    refused = PermissionError(errno.EACCES, "no")
    expected = "port 80 needs privileges; set API_PORT to one above 1023"
    assert ports._advice(refused, "127.0.0.1", 80, "API_PORT") == expected


class Broken:
    """A worker that ended with "Unrecoverable error"."""

    exitcode = 1

    def __init__(self, **_: object) -> None: ...
    def start(self) -> None: ...


@pytest.mark.usefixtures("configured")
def test_the_exit_code_of_a_worker_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "Worker", Broken)
    with pytest.raises(SystemExit) as ended:
        cli.commands(["worker"], standalone_mode=False)
    assert ended.value.code == 1
