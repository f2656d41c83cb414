"""Unit tests cannot use the network."""

from __future__ import annotations

import socket

import pytest


@pytest.mark.parametrize("use", ["bind", "connect", "connect_ex"])
def test_a_unit_test_that_uses_a_network_socket_fails(use: str) -> None:
    with socket.socket() as made, pytest.raises(pytest.fail.Exception, match="tests/integration"):
        getattr(made, use)(("127.0.0.1", 9))


def test_a_unit_test_may_use_a_local_socket() -> None:
    one, other = socket.socketpair()
    with one, other:
        one.sendall(b"x")
        assert other.recv(1) == b"x"
