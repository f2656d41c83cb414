"""The work: clients that post, wait, read and list all the time, and record every answer."""

from __future__ import annotations

import json
import random
import threading
from itertools import count
from typing import TYPE_CHECKING, Any

import httpx

from .answers import CANCEL, RETRY, accepted_ids
from .history import Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .history import Recorder

# The API answers 503 after 4 s without PostgreSQL; no answer within this time is a finding.
ANSWER_SECONDS = 30.0
# Seconds after which a keyed request is repeated, also after a success.
LATER = (3.0, 20.0)
JSON = "application/json"
NDJSON = "application/x-ndjson"
# Texts of tasks that must fail; their tracebacks in a log are no findings.
MADE_TO_FAIL = "made to fail"
NOT_YET = "not yet"
# The tasks of batches and their shares in percent; they are in tests/support/tasks.py.
MIX = {
    "insert_message": 72,
    "note": 12,
    "slow": 5,
    "once": 4,
    "refuse": 3,
    "fail": 2,
    "succeed_at_second_attempt": 2,
}


class Client:
    """One client with a connection to each replica."""

    def __init__(self, load: Load, name: str) -> None:
        self.chance = random.Random(f"{load.seed} {name}")
        self.name = name
        self.load = load
        # uvicorn closes a connection that is idle for 5 s, possibly while a request is being sent.
        limits = httpx.Limits(keepalive_expiry=2.0)
        self._replicas = [
            httpx.Client(base_url=url, timeout=ANSWER_SECONDS, limits=limits) for url in load.urls
        ]

    def ask(
        self,
        method: str,
        path: str,
        body: str = "",
        *,
        kind: str = JSON,
        key: str | None = None,
        asked: Sequence[tuple[str, str]] = (),
        replica: int | None = None,
        wait: float = 0,
    ) -> Answer:
        """Send a request, record the answer, and return it."""
        to = self.chance.randrange(len(self._replicas)) if replica is None else replica
        headers = {"Content-Type": kind} | ({"Idempotency-Key": key} if key else {})
        status, text = None, ""
        sent = self.load.recorder.now()
        try:
            timeout = ANSWER_SECONDS + wait
            got = self._replicas[to].request(
                method, path, content=body.encode(), headers=headers, timeout=timeout
            )
            status, text = got.status_code, got.text
        except httpx.TransportError as error:
            text = f"{type(error).__name__}: {error}"
        received = self.load.recorder.now()
        answer = Answer(sent, received, to, method, path, status, text, key, list(asked))
        self.load.recorder.add(answer)
        return answer

    def submit(self, path: str, body: str, asked: Sequence[tuple[str, str]], **more: Any) -> Answer:
        """Send a submission, and keep the ids in its answer for the reading clients."""
        answer = self.ask("POST", path, body, asked=asked, **more)
        if answer.status == 202:
            self.load.remember([task_id for task_id in accepted_ids(answer) if task_id])
        elif answer.status is None:
            self.load.pause(0.2)
        return answer

    def repeat(self, path: str, body: str, asked: Sequence[tuple[str, str]], **more: Any) -> None:
        """Send a keyed submission to both replicas until both have accepted it, and once later."""
        first = self.chance.randrange(2)
        if self.chance.random() < 0.3:  # at the same time
            more_to = {**more, "replica": 1 - first}
            threading.Thread(target=self.submit, args=[path, body, asked], kwargs=more_to).start()
        for replica in (first, 1 - first):
            while not self.load.stopping.is_set():
                answer = self.submit(path, body, asked, replica=replica, **more)
                stored = not any(word in answer.body for word in ("REFUSED", "UNKNOWN"))
                if answer.status not in {None, 503} and stored:
                    break
                self.load.pause(0.5)
        at = self.load.recorder.now() + self.chance.uniform(*LATER)
        replica = self.chance.randrange(2)
        self.load.later.append(
            (at, lambda: self.submit(path, body, asked, replica=replica, **more))
        )

    def change(self, kind: str, ids: Sequence[str]) -> None:
        """Cancel or retry tasks: one by one, or all in one request."""
        asked = [(kind, task_id) for task_id in ids]
        if not asked:
            return
        if self.chance.random() < 0.5:
            self.ask("POST", f"/tasks/{kind}", json.dumps({"ids": list(ids)}), asked=asked)
            return
        for entry in asked:
            self.ask("POST", f"/tasks/{entry[1]}/{kind}", asked=[entry])

    def label(self) -> str:
        """Return a unique text."""
        return f"{self.name}-{next(self.load.numbers)}"

    def item(self) -> tuple[str, dict[str, Any], str]:
        """Choose a random task: its name, its arguments, its label."""
        label = self.label()
        name = self.chance.choices(list(MIX), list(MIX.values()))[0]
        if name == "slow":
            return name, {"duration": self.chance.choice([0] * 12 + [1, 2])}, ""
        if name in {"refuse", "fail"}:
            label = f"{label} {MADE_TO_FAIL}"
        return name, {"content" if name == "insert_message" else "text": label}, label


class Load:
    """All clients, each in a thread, from `start` to `stop`."""

    def __init__(self, seed: int, urls: Sequence[str], recorder: Recorder) -> None:
        self.seed = seed
        self.urls = urls
        self.recorder = recorder
        self.numbers = count(1)
        self.stopping = threading.Event()
        self.later: list[tuple[float, Callable[[], object]]] = []
        self._ids: list[str] = []
        clients = [_messages, _ordinary, _batches, _keyed, _lists, _direct]
        clients += [_mistakes, _cancels] + [_polls] * 3 + [_states] * 2
        self._threads = [
            threading.Thread(
                target=self._run, args=[client, f"{client.__name__[1:]}{number}"], daemon=True
            )
            for number, client in enumerate(clients)
        ]

    def start(self) -> None:
        """Start all clients."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop all clients; return when they have ended, with answers to their last requests."""
        self.stopping.set()
        for thread in self._threads:
            thread.join(2 * ANSWER_SECONDS)

    def pause(self, seconds: float) -> None:
        """Wait `seconds`, or less if the clients must stop."""
        self.stopping.wait(seconds)

    def remember(self, ids: Sequence[str]) -> None:
        """Record the ids of accepted tasks."""
        self._ids.extend(ids)

    def known_id(self, chance: random.Random) -> str | None:
        """Return the id of an accepted task, preferably a recent one; None if there are none."""
        ids = self._ids
        if not ids:
            return None
        last = len(ids)
        first = max(0, last - 60) if chance.random() < 0.8 else 0
        return ids[chance.randrange(first, last)]

    def _run(self, act: Callable[[Client], None], name: str) -> None:
        client = Client(self, name)
        while not self.stopping.is_set():
            act(client)


def _messages(client: Client) -> None:
    label = client.label()
    client.submit("/tasks/", json.dumps({"content": label}), [("insert_message", label)])
    client.load.pause(client.chance.uniform(0.02, 0.08))


def _ordinary(client: Client) -> None:
    name, arguments, label = client.item()
    if name == "slow":
        client.submit(f"/tasks/slow?duration={arguments['duration']}", "", [(name, label)])
    elif name != "insert_message":
        client.submit(f"/tasks/{name}", json.dumps(arguments), [(name, label)])
    client.load.pause(client.chance.uniform(0.01, 0.05))


def _batches(client: Client) -> None:
    items = [client.item() for _ in range(client.chance.randint(5, 40))]
    rows = [json.dumps({"name": name, "arguments": arguments}) for name, arguments, _ in items]
    asked = [(name, label) for name, _, label in items]
    more: dict[str, Any] = {}
    if client.chance.random() < 0.5:
        body = f"[{','.join(rows)}]"
    else:
        rows.append('{"name": "no_such_task", "arguments": {}}')
        asked.append(("no_such_task", ""))
        body, more["kind"] = "\n".join(rows) + "\n", NDJSON
    if client.chance.random() < 0.5:
        client.repeat("/tasks/batch", body, asked, key=client.label(), **more)
    else:
        client.submit("/tasks/batch", body, asked, **more)
    client.load.pause(client.chance.uniform(0.5, 1.5))


def _mistakes(client: Client) -> None:
    """Submit tasks, cancel some of them at once or soon, and retry some of those later."""
    items = [client.item() for _ in range(client.chance.randint(2, 12))]
    rows = [{"name": name, "arguments": arguments} for name, arguments, _ in items]
    asked = [(name, label) for name, _, label in items]
    answer = client.submit("/tasks/batch", json.dumps(rows), asked)
    ids = [task_id for task_id in accepted_ids(answer) if task_id] if answer.status == 202 else []
    client.load.pause(client.chance.choice([0, 0, 0.05, 0.5, 2]))
    client.change(CANCEL, [task_id for task_id in ids if client.chance.random() < 0.7])
    client.load.pause(client.chance.choice([0, 0.1, 1]))
    client.change(RETRY, [task_id for task_id in ids if client.chance.random() < 0.5])
    client.load.pause(client.chance.uniform(0.2, 1))


def _cancels(client: Client) -> None:
    """Cancel a task of any client; sometimes retry one."""
    for kind in (CANCEL, RETRY):
        if (task_id := client.load.known_id(client.chance)) and client.chance.random() < 0.5:
            client.change(kind, [task_id])
    client.load.pause(client.chance.uniform(0.1, 0.5))


def _keyed(client: Client) -> None:
    label = client.label()
    client.repeat("/tasks/", json.dumps({"content": label}), [("insert_message", label)], key=label)
    client.load.pause(client.chance.uniform(0.05, 0.2))
    due = [entry for entry in client.load.later if entry[0] < client.load.recorder.now()]
    for entry in due:
        client.load.later.remove(entry)
        entry[1]()


def _lists(client: Client) -> None:
    client.ask("GET", "/tasks/")
    client.load.pause(client.chance.uniform(0.3, 0.8))


def _direct(client: Client) -> None:
    label = client.label()
    client.ask("POST", "/messages/", json.dumps({"content": label}), asked=[("", label)])
    client.ask("GET", "/messages/?limit=10")
    client.load.pause(client.chance.uniform(0.3, 0.8))


def _polls(client: Client) -> None:
    if task_id := client.load.known_id(client.chance):
        wait = client.chance.choice([1, 3, 10])
        client.ask("GET", f"/tasks/{task_id}?wait={wait}", wait=wait)
    client.load.pause(client.chance.uniform(0.02, 0.2))


def _states(client: Client) -> None:
    if task_id := client.load.known_id(client.chance):
        first = client.chance.randrange(2)
        for replica in (first, 1 - first):
            client.ask("GET", f"/tasks/{task_id}", replica=replica)
    client.load.pause(client.chance.uniform(0.02, 0.08))
