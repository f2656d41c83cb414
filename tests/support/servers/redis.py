"""Redis, with a password or TLS if a test needs it."""

import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import redis

from tests.support.certificates import Certificate

from .processes import find_program, port_answers
from .server import Server


class Redis(Server):
    """A Redis server without persistence. Raises Missing if its program is not installed.

    `settings` are added to its configuration ({"requirepass": "secret"}). With a `certificate` it
    accepts only TLS.
    """

    _kind = "redis"

    def __init__(
        self, settings: Mapping[str, str] | None = None, certificate: Certificate | None = None
    ) -> None:
        self.password = (settings or {}).get("requirepass", "")
        self._server = self._program()
        super().__init__(self._kind)
        self._scheme, self._settings = "redis", {"port": str(self.port), **(settings or {})}
        if certificate is not None:
            self._scheme = "rediss"
            self._settings |= {
                "port": "0",
                "tls-port": str(self.port),
                "tls-cert-file": str(certificate.file),
                "tls-key-file": str(certificate.key),
                "tls-auth-clients": "no",
            }

    @property
    def url(self) -> str:
        """Return the URL of database 0."""
        return f"{self._scheme}://127.0.0.1:{self.port}/0"

    def stop(self) -> None:
        """Kill it (SIGKILL); its data is lost."""
        self._stop(signal.SIGKILL)

    def command(self, *words: str) -> None:
        """Send it a command, such as `command("CONFIG", "SET", "maxmemory", "1")`."""
        with redis.Redis(port=self.port, password=self.password or None) as client:
            client.execute_command(*words)

    def set_password(self, password: str) -> None:
        """Require a password from now on; "" for none. Open connections stay."""
        self.command("CONFIG", "SET", "requirepass", password)
        self.password = password

    def _program(self) -> Path:
        return find_program("redis-server", "redis-server")

    def _command(self) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        settings = {"bind": "127.0.0.1", "save": "", "appendonly": "no", **self._settings}
        words = [word for name, value in settings.items() for word in (f"--{name}", value)]
        return [self._server, *words], {}

    def _ready(self) -> bool:
        return port_answers(self.port, b"PING\r\n" if self._scheme == "redis" else b"")
