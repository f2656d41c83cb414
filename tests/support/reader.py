"""Runs the commands of the documents, as a reader would."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import httpx

from tests.support import documents
from tests.support.ports import free_port
from tests.support.stack import ROOT, Stack
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.documents import Block
    from tests.support.servers import RabbitMQ


AUTH = ("admin", "change-me")
BLOCK_SECONDS = 60.0

# `watch` runs its command once. If `jq` is not installed, a function in Python replaces it.
PRELUDE = """
set -euo pipefail
watch() { shift 2; bash -c "$1"; }
command -v jq >/dev/null || jq() { python3 -c \
'import json, sys; print(json.load(sys.stdin)[sys.argv[1][1:]])' "$2"; }
"""


class Reader:
    """Runs the commands of the documents in a copy of the project, with a running service."""

    def __init__(self, stack: Stack, rabbitmq: RabbitMQ, folder: Path) -> None:
        self.stack = stack
        self.flower_port = free_port()
        self.rabbitmq_port = free_port()
        self.task_id = ""
        self.folder = folder / "project"
        for name in ("backend", "examples"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, self.folder / name, ignore=ignored)
        _serve_management(rabbitmq, self.rabbitmq_port)
        environment = {"FLOWER_PORT": str(self.flower_port), "FLOWER_BASIC_AUTH": ":".join(AUTH)}
        self.stack.environment.update(environment)
        for name in ("api", "flower"):
            self.stack.start(name)
        # One queue is that of an example.
        self.stack.start("worker", environment={"WORKER_QUEUES": "tasks,short_tasks,io"})
        flower = f"http://127.0.0.1:{self.flower_port}"
        eventually(lambda: _answers(f"{flower}/healthcheck"), 30, "Flower serves")
        eventually(
            lambda: httpx.get(f"{stack.url}/health/ready").json().get("degraded") == [],
            30,
            "readiness shows nothing degraded",
        )

    def here(self, text: str) -> str:
        """Return a text of the documents with this service's addresses and programs."""
        for port, ours in (
            (8060, self.stack.port),
            (5555, self.flower_port),
            (15672, self.rabbitmq_port),
        ):
            text = text.replace(f"localhost:{port}", f"127.0.0.1:{ours}")
        text = text.replace(".venv/bin/python", sys.executable)
        text = text.replace(".venv/bin/celery", f"{sys.executable} -m celery")
        return documents.shortened(text)

    def run(self, *command: str) -> str:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={
                **self.stack.settings(),
                "PYTHONPATH": str(self.folder),
                "TASKS_API_URL": self.stack.url,
                "TASK_ID": self.task_id,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=BLOCK_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def type(self, block: Block) -> str:
        """Run a block of commands; a TASK_ID that it sets is kept for the next block."""
        mark = "--- TASK_ID="
        text = f'{PRELUDE}\n{self.here(block.text)}\necho; echo "{mark}${{TASK_ID:-}}"'
        printed, _, task_id = self.run("bash", "-c", text).rpartition(mark)
        self.task_id = task_id.strip()
        return printed

    def is_idle(self) -> bool:
        return self.stack.unfinished() == 0


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2, auth=AUTH).status_code == 200
    except httpx.TransportError:
        return False


def _serve_management(rabbitmq: RabbitMQ, port: int) -> None:
    """Make RabbitMQ serve its management page and HTTP API, as in docker-compose.yml."""
    plugins = rabbitmq.directory / "enabled_plugins"
    plugins.write_text("[rabbitmq_management].\n")
    rabbitmq.eval("rabbit:await_startup()")
    rabbitmq.eval(
        "application:set_env(rabbitmq_management, tcp_config,"
        f' [{{port, {port}}}, {{ip, "127.0.0.1"}}]), rabbit_plugins:ensure("{plugins}")'
    )
    eventually(lambda: _answers(f"http://127.0.0.1:{port}/"), 30, "RabbitMQ's page answers")


def end_management(rabbitmq: RabbitMQ) -> None:
    plugins = rabbitmq.directory / "enabled_plugins"
    plugins.write_text("[].\n")
    rabbitmq.eval(f'rabbit_plugins:ensure("{plugins}")')
