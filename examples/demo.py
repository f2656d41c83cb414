"""Show that a 202 is final: post 10,000 tasks while servers and a worker are killed, then count.

`make demo`, or `.venv/bin/python examples/demo.py --tasks 1000`. It starts a `tasks-api up` with
its own folder and ports, and removes all of this at the end.
"""

# ruff: noqa: INP001 - a script

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2
from demo_up import Up, say, service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

CLIENTS = 8
# Tasks in one request.
BATCH = 20
POSTING_SECONDS = 20.0
# After all posts, how long the number of unfinished tasks may stay the same. A message that the
# broker lost is published again after 10 s.
IDLE_SECONDS = 90.0


def main() -> int:
    """Run the demo; return 0 if every task was accepted and ended once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=10_000, help="how many tasks to post")
    count: int = parser.parse_args().tasks
    # SIGINT too: a process that a shell starts in the background ignores it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="demo-"))
    try:
        with service(folder) as up:
            return Demo(up, count).run()
    except KeyboardInterrupt:
        say("Stopped.")
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Demo:
    """Posts tasks, kills servers and a worker, and counts."""

    def __init__(self, up: Up, count: int) -> None:
        self._up = up
        self._count = count
        self._firsts = iter(range(0, count, BATCH))
        self._lock = threading.Lock()
        self._accepted: dict[str, str] = {}  # id: content
        self._repeated = 0
        self._stopping = threading.Event()

    def run(self) -> int:
        """Post, kill and count; return 0 if no task was lost or ran twice."""
        say(f"Posting {self._count:,} tasks, {BATCH} in a request. Each request has a key, so")
        say("one that gets no answer, or a 503, can be sent again")
        begin = time.monotonic()
        clients = [threading.Thread(target=self._post, args=[begin]) for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        try:
            disasters = [self._kill_worker, self._lose_broker, self._restart_postgres]
            self._watch(clients, disasters)
            return self._count_all()
        finally:
            self._stopping.set()

    def _watch(
        self, clients: Sequence[threading.Thread], disasters: list[Callable[[], None]]
    ) -> None:
        """Cause one disaster after each fifth of the tasks; return when no more tasks end."""
        parts = len(disasters) + 2
        done, before, deadline = 0, "", 0.0
        while True:
            if len(self._accepted) >= self._count * (done + 1) / parts and done < len(disasters):
                disasters[done]()
                done += 1
            self._stopping.wait(2)
            if not self._up.runs:
                raise SystemExit("tasks-api up has ended by itself")
            left = self._unfinished()
            say(f"accepted {len(self._accepted):,}, of these unfinished {left}")
            if any(client.is_alive() for client in clients) or left != before:
                before, deadline = left, time.monotonic() + IDLE_SECONDS
            elif (left == "0" and done == len(disasters)) or time.monotonic() > deadline:
                return

    def _unfinished(self) -> str:
        try:
            status, body = call(self._connect(), "GET", "/tasks/?limit=1")
        except (OSError, HTTPException):
            return "unknown: the API is away"
        return f"{body['total']:,}" if status == 200 else "unknown: PostgreSQL is away"  # noqa: PLR2004 - OK

    # --- Disasters

    def _kill_worker(self) -> None:
        worker = self._up.find("backend", "worker")
        say(f"** Killing the worker (kill -9 {worker.pid}) with all that it has begun")
        for process in [worker, *worker.children(recursive=True)]:
            process.kill()

    def _lose_broker(self) -> None:
        broker = self._up.find("valkey-server")
        say(f"** Killing the broker (kill -9 {broker.pid}) and deleting its data")
        broker.kill()
        broker.wait()
        for path in (self._up.folder / "valkey").iterdir():
            shutil.rmtree(path)

    def _restart_postgres(self) -> None:
        postgres = self._up.find("postgres", "-D")
        say(f"** Restarting PostgreSQL (kill -INT {postgres.pid}); requests get 503 meanwhile")
        postgres.send_signal(signal.SIGINT)

    # --- Posting

    def _connect(self) -> HTTPConnection:
        return HTTPConnection("127.0.0.1", self._up.port, timeout=20)

    def _post(self, begin: float) -> None:
        """Post the next tasks when they are due, until all are posted."""
        connection = self._connect()
        while not self._stopping.is_set():
            with self._lock:
                first = next(self._firsts, None)
            if first is None:
                return
            self._stopping.wait(begin + first * POSTING_SECONDS / self._count - time.monotonic())
            texts = [f"task {number}" for number in range(first, min(first + BATCH, self._count))]
            tasks = [{"arguments": {"content": text}} for text in texts]
            while not self._stopping.is_set():
                try:
                    status, body = call(connection, "POST", "/tasks/batch", tasks, f"demo-{first}")
                except (OSError, HTTPException):
                    status, body = 0, {}
                with self._lock:
                    if status == 202:  # noqa: PLR2004 - accepted
                        ids = [task["task_id"] for task in body["tasks"]]
                        self._accepted.update(zip(ids, texts, strict=True))
                        break
                    self._repeated += 1
                self._stopping.wait(0.2)

    # --- Counting

    def _count_all(self) -> int:
        """Compare every accepted task with the API's answer and with the rows of the database."""
        say(f"Requests sent again: {self._repeated:,}. Asking the API for each of the tasks …")
        ended: set[str] = set()
        asked = iter(list(self._accepted))
        clients = [
            threading.Thread(target=self._ask, args=[asked, ended], daemon=True)
            for _ in range(CLIENTS)
        ]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        say("… and looking for each one's message in the database")
        with closing(psycopg2.connect(self._up.database)) as database, database.cursor() as cursor:
            cursor.execute("SELECT CAST(task_id AS text), content FROM messages")
            messages = cursor.fetchall()
            cursor.execute("SELECT id FROM tasks")
            tasks = len(cursor.fetchall())
        written = Counter(messages)
        lost = sum(pair not in written or pair[0] not in ended for pair in self._accepted.items())
        twice = len(messages) - len({content for _, content in messages})
        twice += max(0, tasks - self._count)
        accepted = len(self._accepted)
        say(f"accepted {accepted:,}, ended {len(ended):,}, lost {lost:,}, twice {twice:,}")
        return 0 if accepted == len(ended) == self._count and not lost and not twice else 1

    def _ask(self, asked: Iterator[str], ended: set[str]) -> None:
        connection = self._connect()
        while True:
            with self._lock:
                task_id = next(asked, None)
            if task_id is None:
                return
            status, body = call(connection, "GET", f"/tasks/{task_id}")
            if status == 200 and body["status"] == "SUCCESS":  # noqa: PLR2004 - OK
                ended.add(task_id)


def call(
    connection: HTTPConnection, method: str, path: str, body: object = None, key: str = ""
) -> tuple[int, Any]:
    """Return status and body of the API's answer. Without one, raises OSError or HTTPException."""
    headers = {"Content-Type": "application/json"} | ({"Idempotency-Key": key} if key else {})
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    except (OSError, HTTPException):
        connection.close()  # the next request opens it again
        raise


if __name__ == "__main__":
    sys.exit(main())
