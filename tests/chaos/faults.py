"""The faults: each begins, lasts some time, is undone, and is recorded in the history."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

import amqp
import psycopg2
import redis
from kombu.exceptions import KombuError

from tests.support.servers import tree
from tests.support.waiting import eventually

from . import messages
from .ending import rows
from .history import Happened

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.support.servers import Postgres

    from .brokers import Broker
    from .cluster import Cluster
    from .schedule import Fault

T = TypeVar("T")

# Errors of any client while another fault makes a server unavailable.
AWAY = (
    OSError,
    RuntimeError,
    subprocess.TimeoutExpired,
    amqp.AMQPError,
    KombuError,
    redis.RedisError,
    psycopg2.Error,
)

# Seconds to try to reach a broker that another fault makes unavailable.
REACH_SECONDS = 10.0
# Seconds that a server which is already starting may still take.
START_SECONDS = 60.0


class Faults:
    """Makes faults, each in a thread; faults of one target happen one after the other."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._clock = 0.0
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    def run(self, planned: Sequence[Fault]) -> None:
        """Begin every fault at its time; return when the last has begun."""
        for fault in planned:
            time.sleep(max(0.0, fault.at - self._cluster.recorder.now()))
            thread = threading.Thread(target=self._make, args=[fault], name=fault.name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def end(self, timeout: float) -> list[str]:
        """End all faults now; return those that did not end within `timeout` seconds."""
        self._over.set()
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return [thread.name for thread in self._threads if thread.is_alive()]

    def _make(self, fault: Fault) -> None:
        recorder = self._cluster.recorder
        with self._locks[fault.target]:
            if self._over.is_set():
                return  # another fault of this target lasted until the end
            began = recorder.now()
            what = f"{fault.name} {fault.target}"
            lasts = f" for {fault.seconds:g} s" if fault.seconds else ""
            step = f" by {fault.amount:+g} s" if fault.name == "step_clock" else ""
            recorder.say(f"{what}{step}{lasts}")
            note = ""
            try:
                act: Callable[[Fault], str | None] = getattr(self, f"_{fault.name}")
                note = act(fault) or ""
            except Exception as error:  # noqa: BLE001 - any error is a finding
                note = f"failed: {type(error).__name__}: {error}".strip()
                recorder.say(f"!! {what}: {note}")
            recorder.add(Happened(began, recorder.now(), fault.name, fault.target, note))

    def _wait(self, seconds: float) -> None:
        self._over.wait(seconds)

    def start(self, server: Postgres | Broker) -> None:
        """Start a server; if it does not serve after two minutes, it is killed and started again.

        On a busy machine a start may take more than one minute.
        """
        with suppress(AssertionError):
            server.start()
        try:
            eventually(lambda: server.serves, START_SECONDS, f"{server.name} serves")
        except AssertionError:
            self._cluster.recorder.say(f"{server.name} does not serve: starting it again")
            server._stop(signal.SIGKILL)
            server.start()

    # --- Processes

    def _kill_api(self, fault: Fault) -> None:
        self._kill(fault)

    def _kill_worker(self, fault: Fault) -> None:
        self._kill(fault)

    def _kill_relay(self, fault: Fault) -> None:
        self._kill(fault)

    def _kill(self, fault: Fault, how: signal.Signals = signal.SIGKILL) -> None:
        try:
            self._cluster.end(fault.target, how)
            self._wait(fault.seconds)
        finally:
            self._cluster.bring_back(fault.target)

    def _stop_worker(self, fault: Fault) -> None:
        self._kill(fault, signal.SIGTERM)

    def _kill_child(self, fault: Fault) -> str | None:
        # Celery ends a worker whose child dies before the worker first reads from the broker.
        if not self._cluster.works(fault.target):
            return "it has not started yet"
        self._wait(1.0)
        children = self._cluster[fault.target].children()
        if children:
            with suppress(ProcessLookupError):
                os.kill(children[int(fault.amount * len(children)) % len(children)], signal.SIGKILL)
        return None

    def _freeze_worker(self, fault: Fault) -> None:
        """Freeze the parent and, in half of the cases, also its children."""
        pid = self._cluster[fault.target].popen.pid
        family = list(tree(pid)) if fault.amount < 0.5 else [pid]
        for member in family:
            with suppress(ProcessLookupError):
                os.kill(member, signal.SIGSTOP)
        try:
            self._wait(fault.seconds)
        finally:
            for member in family:
                with suppress(ProcessLookupError):
                    os.kill(member, signal.SIGCONT)

    def _freeze_relay(self, fault: Fault) -> None:
        self._freeze_worker(fault)

    # --- PostgreSQL

    def _restart_store(self, fault: Fault) -> None:
        self._cluster.postgres.stop("fast")
        self._wait(fault.seconds)
        self.start(self._cluster.postgres)

    def _crash_store(self, fault: Fault) -> None:
        self._cluster.postgres.stop("immediate")
        self._wait(fault.seconds)
        self.start(self._cluster.postgres)

    def _freeze_store(self, fault: Fault) -> None:
        self._cluster.postgres.freeze()
        try:
            self._wait(fault.seconds)
        finally:
            self._cluster.postgres.thaw()

    def _end_store_connections(self, _: Fault) -> str:
        ended = rows(
            self._cluster.stack.database_url,
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        return f"{ended[0][0]} connections"

    def _step_clock(self, fault: Fault) -> str:
        self._clock += fault.amount
        self._cluster.postgres.step_clock(self._clock)
        return f"by {fault.amount:+g} s"

    # --- The broker

    def _stop_broker(self, fault: Fault) -> None:
        self._cluster.broker.stop()
        self._wait(fault.seconds)
        self.start(self._cluster.broker)

    def _wipe_broker(self, fault: Fault) -> None:
        self._cluster.broker.stop()
        self._cluster.broker.wipe()
        self._wait(fault.seconds)
        self.start(self._cluster.broker)

    def _freeze_broker(self, fault: Fault) -> None:
        self._cluster.broker.freeze()
        try:
            self._wait(fault.seconds)
        finally:
            self._cluster.broker.thaw()

    def _cut_connections(self, _: Fault) -> str:
        count = self._cluster.proxy.connections
        self._cluster.proxy.cut()
        return f"{count} connections"

    def _refuse_connections(self, fault: Fault) -> None:
        self._cluster.proxy.refuse()
        try:
            self._wait(fault.seconds)
        finally:
            self._cluster.proxy.accept()

    def _raise_alarm(self, fault: Fault) -> None:
        broker = self._cluster.broker
        assert hasattr(broker, "set_alarm")
        self._reach(lambda: broker.set_alarm(True))
        try:
            self._wait(fault.seconds)
        finally:
            self._reach(lambda: broker.set_alarm(False))

    # --- Messages

    def _delete_queues(self, _: Fault) -> None:
        self._reach(self._cluster.broker.delete_all_queues)

    def _close_connections(self, _: Fault) -> None:
        self._reach(self._cluster.broker.close_all_connections)

    def _send_malformed(self, _: Fault) -> str:
        url = self._cluster.broker.url
        return f"{self._reach(lambda: messages.send(url, messages.malformed()))} messages"

    def _send_duplicates(self, fault: Fault) -> str:
        last = self._reach(self._last_tasks) or []
        chosen = random.Random(fault.amount).sample(last, min(len(last), 60))
        url = self._cluster.broker.url
        return f"{self._reach(lambda: messages.send(url, messages.copies(chosen)))} messages"

    def _last_tasks(self) -> list[tuple[str, str, str, int, str | None]]:
        return rows(
            self._cluster.stack.database_url,
            "SELECT CAST(id AS text), name, CAST(args AS text), attempt, reply_to FROM tasks"
            " ORDER BY id DESC LIMIT 400",
        )

    def _reach(self, act: Callable[[], T]) -> T | None:
        """Retry an action on a server that may be unavailable; return None if this lasts."""
        deadline = time.monotonic() + REACH_SECONDS
        while True:
            try:
                return act()
            except AWAY:
                if self._over.is_set() or time.monotonic() > deadline:
                    return None
                self._wait(0.5)
