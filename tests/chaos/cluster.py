"""The service under test: its servers, and five processes that are restarted when they end."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import httpx

from tests.support.ports import free_port
from tests.support.proxy import Proxy
from tests.support.servers import Postgres
from tests.support.stack import Stack
from tests.support.waiting import eventually

from .brokers import make_broker
from .history import Happened
from .schedule import APIS, RELAYS, WORKERS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.stack import Process

    from .history import Recorder
    from .schedule import BrokerName

# Seconds until an ended process is started again: the first value, doubled up to the second.
PAUSES = (0.5, 4.0)
SERVE_SECONDS = 60.0

COMMANDS = {
    **dict.fromkeys(APIS, ("api", "--no-relay")),
    **dict.fromkeys(WORKERS, ("worker",)),
    **dict.fromkeys(RELAYS, ("relay",)),
}


class Cluster:
    """Servers and processes; a thread starts every ended process again."""

    def __init__(self, broker: BrokerName, folder: Path, recorder: Recorder) -> None:
        self.recorder = recorder
        self._folder = folder
        self.postgres = Postgres(clock=True)
        self.broker = make_broker(broker)
        self.proxy = Proxy("127.0.0.1", self.broker.port)
        self._ports = {name: free_port() for name in APIS}
        self._intended: set[int] = set()
        self._held: set[str] = set()
        self._started: list[int] = []
        self._stopping = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, name="supervisor", daemon=True)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda server: server.start(), (self.postgres, self.broker)))
        url = self.broker.url.replace(f":{self.broker.port}", f":{self.proxy.port}")
        database = self.postgres.create_database()
        self.stack = Stack(database, url, folder, module="tests.support.service")

    def start(self) -> None:
        """Start all processes and the supervisor; return when all processes work."""
        for name in COMMANDS:
            self._launch(name)
        for name in COMMANDS:
            self.wait_until_working(name)
        self._supervisor.start()

    @property
    def urls(self) -> list[str]:
        """Return the addresses of the API's replicas."""
        return [f"http://127.0.0.1:{port}" for port in self._ports.values()]

    def __getitem__(self, name: str) -> Process:
        return self.stack[name]

    def end(self, name: str, how: signal.Signals, timeout: float = 10.0) -> None:
        """End a process by a signal and wait for it; it stays down until `bring_back`.

        Raises TimeoutError, after killing it, if it takes longer than `timeout` seconds.
        """
        self._held.add(name)
        process = self.stack[name].popen
        self._intended.add(process.pid)
        process.send_signal(how)
        deadline = time.monotonic() + timeout
        while process.poll() is None:
            if time.monotonic() > deadline:
                process.kill()
                raise TimeoutError(f"{name} did not end within {timeout:g} s of {how.name}")
            time.sleep(0.05)

    def bring_back(self, name: str) -> None:
        """Start a process that was ended; return when it has started, or when an API serves."""
        pid = self.stack[name].popen.pid
        self._held.discard(name)
        eventually(lambda: self.stack[name].popen.pid != pid, 10, f"{name} starts again")
        if name in APIS:
            self.wait_until_working(name)

    def wait_until_working(self, name: str) -> None:
        """Wait until a process serves, or has logged that it is ready."""
        eventually(lambda: self.works(name), SERVE_SECONDS, f"{name} works")

    def close(self) -> None:
        """Kill everything."""
        self._stopping.set()
        if self._supervisor.is_alive():
            self._supervisor.join()
        for pid in self._started:
            try:
                os.killpg(pid, signal.SIGKILL)  # also the children of a killed process
            except ProcessLookupError:
                continue
        self.stack.close()
        self.proxy.close()
        for server in (self.broker, self.postgres):
            shutil.copy(server.directory / "log", self._folder / f"{server.name}.log")
            server.close()

    def _launch(self, name: str) -> None:
        environment = {"API_PORT": str(self._ports[name])} if name in APIS else {}
        process = self.stack.launch(*COMMANDS[name], name=name, environment=environment)
        self._started.append(process.popen.pid)

    def works(self, name: str) -> bool:
        """Return whether a process serves, or has logged that it is ready."""
        if name in APIS:
            try:
                url = f"http://127.0.0.1:{self._ports[name]}/health/live"
                return httpx.get(url, timeout=2).status_code == 200
            except httpx.TransportError:
                return False
        return name not in WORKERS or " ready." in self.stack[name].log

    def _supervise(self) -> None:
        ended: dict[str, float] = {}
        pauses: Counter[str] = Counter()
        while not self._stopping.wait(0.1):
            for name in COMMANDS:
                process = self.stack[name]
                code = process.popen.poll()
                if code is None or name in self._held:
                    continue
                now = self.recorder.now()
                if name not in ended:
                    ended[name] = now
                    if process.popen.pid not in self._intended:
                        pauses[name] += 1
                        note = f"exit code {code}, {process.output.name}"
                        self.recorder.say(f"!! {name} ended by itself: {note}")
                        self.recorder.add(Happened(now, now, "ended_by_itself", name, note))
                if now - ended[name] > min(PAUSES[0] * 2 ** pauses[name], PAUSES[1]):
                    del ended[name]
                    self._launch(name)
