"""The stack of docker-compose.yml, in containers, and its settings."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
import uuid
from typing import TYPE_CHECKING, Any

import httpx

from tests.support.ports import free_port
from tests.support.stack import ROOT, Stack

if TYPE_CHECKING:
    from pathlib import Path


EXAMPLE = (ROOT / ".env.example").read_text()
PORTS = {"API_PORT": 8060, "FLOWER_PORT": 5555, "RABBITMQ_UI_PORT": 15672}
DOWN_SECONDS = 5.0


def assignments(text: str) -> dict[str, str]:
    """Return the settings of a .env file, commented out or not."""
    return dict(re.findall(r"^#?([A-Z][A-Z_]*)=(.*)$", text, re.MULTILINE))


def without_settings() -> dict[str, str]:
    """Return this process's environment without what .env.example can set."""
    names = {*assignments(EXAMPLE), "COMPOSE_FILE", "COMPOSE_PROFILES", "COMPOSE_PROJECT_NAME"}
    return {name: value for name, value in os.environ.items() if name not in names}


class Compose(Stack):
    """The stack in containers, from a copy of the project and under its own name."""

    def __init__(self, folder: Path) -> None:
        # Stack's own constructor is not called: it is for processes.
        self.folder = folder
        self.project = f"tasks-api-test-{uuid.uuid4().hex[:8]}"
        self.ports = {name: free_port() for name in PORTS}
        self.port = self.ports["API_PORT"]
        files = self._command("git", "ls-files", "-z", "-co", "--exclude-standard", cwd=ROOT)
        for name in filter(None, files.split("\0")):
            if (ROOT / name).exists():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)

    def compose(self, *arguments: str) -> str:
        """Run `docker compose` and return its output."""
        return self._command("docker", "compose", *arguments, cwd=self.folder)

    def up(self, *profile: str) -> None:
        """Start everything and wait until it works."""
        self.compose(*profile, "up", "--detach", "--wait", "--quiet-pull")

    def container(self, service: str) -> str:
        """Return the id of a service's container, which may have ended."""
        return self.compose("ps", "--all", "--quiet", service).strip()

    def kill_and_start(self, container: str) -> None:
        """Kill a container and start it again after a pause, as an operator would.

        `restart: unless-stopped` does not restart it, as `docker kill` is a manual stop.
        """
        self._command("docker", "kill", container, cwd=self.folder)
        threading.Event().wait(DOWN_SECONDS)
        self._command("docker", "start", container, cwd=self.folder)

    def get(self, setting: str, path: str, **options: Any) -> httpx.Response:
        """Get a page from the port that a setting publishes."""
        return httpx.get(f"http://localhost:{self.ports[setting]}{path}", timeout=10, **options)

    def query(self, sql: str, *parameters: object) -> list[tuple[object, ...]]:
        """Return the rows of a query without parameters, every value a text."""
        assert not parameters
        psql = ["psql", "--username=tasks", "--csv", "--tuples-only", "--command", sql]
        rows = self.compose("exec", "-T", "postgres", *psql).splitlines()
        return [tuple(row.split(",")) for row in rows]

    def close(self) -> None:
        """Remove everything that was created, including volumes and images."""
        self.compose("--profile", "*", "down", "--volumes", "--rmi", "local")

    def _command(self, *command: str, cwd: Path) -> str:
        environment = {name: str(port) for name, port in self.ports.items()}
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**without_settings(), "COMPOSE_PROJECT_NAME": self.project, **environment},
            capture_output=True,
            text=True,
            timeout=570,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout
