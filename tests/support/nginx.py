"""nginx in front of the service, in its own directory and with the user of the tests."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from .servers import Server, find_program, port_answers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MAIN = """
{user}
daemon off;
pid nginx.pid;
error_log stderr;
worker_processes 1;
events {{ worker_connections 512; }}
http {{
    log_format tried '$status $upstream_status';
    access_log access.log tried;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    {http}
}}
"""


class Nginx(Server):
    """An nginx with the given blocks in `http`; `listen 80` is replaced with a free port.

    Raises Missing if its program is not installed.
    """

    def __init__(self, http: str) -> None:
        self._program = find_program("nginx", "nginx", Path("/usr/sbin"))
        super().__init__("nginx")
        http, count = re.subn(r"\blisten 80;", f"listen 127.0.0.1:{self.port};", http)
        assert count == 1, http
        user = "user root;" if os.geteuid() == 0 else ""
        (self.directory / "nginx.conf").write_text(_MAIN.format(user=user, http=http))

    @property
    def url(self) -> str:
        """Return its address."""
        return f"http://127.0.0.1:{self.port}"

    def answered(self) -> list[tuple[str, ...]]:
        """Return for each answer its status and the status of the server behind nginx."""
        lines = (self.directory / "access.log").read_text().splitlines()
        return [tuple(line.split()) for line in lines]

    def _command(self) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        return [self._program, "-e", "stderr", "-p", self.directory, "-c", "nginx.conf"], {}

    def _ready(self) -> bool:
        return port_answers(self.port, b"")
