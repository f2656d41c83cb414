"""The final state: in the database, in the API's last answers, and in the logs."""

from __future__ import annotations

import json
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import psycopg2

from .load import MADE_TO_FAIL, NOT_YET
from .messages import MALFORMED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

FILE = "ending.json"
# A traceback is allowed if it contains all texts of one of these lines.
ALLOWED = (
    (MADE_TO_FAIL,),
    (NOT_YET,),
    (MALFORMED,),
    ("Control command error",),  # from Celery, for a broken connection; so are the next two
    ("Error cleaning up after event loop",),
    ("Error on stopping Hub",),
    # PostgreSQL was lost between a task's statements and its commit: the task is retried.
    ("] raised", "psycopg2.OperationalError"),
)


class Task(NamedTuple):
    """A row of the ledger; `result` is JSON text."""

    id: str
    name: str
    args: dict[str, Any]
    state: str
    attempt: int
    result: str | None
    error: str | None


class Message(NamedTuple):
    """A row of the messages."""

    id: int
    task_id: str | None
    content: str


@dataclass
class Ending:
    """The final state, with which the answers are compared."""

    tasks: list[Task]
    messages: list[Message]
    outbox: list[str]
    open_transactions: list[str]
    listed: list[str]  # the bodies of GET /tasks/, one for each replica; so are the next two
    ready: list[str]
    message_totals: list[int]
    tracebacks: list[str]

    @classmethod
    def read(cls, folder: Path) -> Ending:
        """Return the ending that a run has left in its folder."""
        saved = json.loads((folder / FILE).read_text())
        saved["tasks"] = [Task(*row) for row in saved["tasks"]]
        saved["messages"] = [Message(*row) for row in saved["messages"]]
        return cls(**saved)

    def save(self, folder: Path) -> None:
        """Write it into the run's folder."""
        (folder / FILE).write_text(json.dumps(asdict(self)))


def rows(database_url: str, sql: str) -> list[tuple[Any, ...]]:
    """Return the rows of a query."""
    connection = psycopg2.connect(database_url.replace("+psycopg2", ""))
    connection.autocommit = True
    with closing(connection), connection.cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall())


def idle(database_url: str, urls: Sequence[str]) -> bool:
    """Return whether no work is left and both replicas report nothing degraded."""
    waiting = rows(
        database_url,
        "SELECT (SELECT count(*) FROM outbox)"
        " + (SELECT count(*) FROM tasks WHERE state NOT IN ('SUCCESS', 'FAILURE', 'REVOKED'))",
    )
    return waiting[0][0] == 0 and all('"degraded":[]' in _get(url, "/health/ready") for url in urls)


def ending(database_url: str, urls: Sequence[str], folder: Path) -> Ending:
    """Read the final state."""
    tasks = rows(
        database_url,
        "SELECT CAST(id AS text), name, args, state, attempt, CAST(result AS text), error"
        " FROM tasks",
    )
    messages = rows(database_url, "SELECT id, CAST(task_id AS text), content FROM messages")
    outbox = rows(database_url, "SELECT CAST(task_id AS text) FROM outbox")
    totals = [json.loads(_get(url, "/messages/?limit=1") or '{"total":-1}') for url in urls]
    return Ending(
        tasks=[Task(*row) for row in tasks],
        messages=[Message(*row) for row in messages],
        outbox=[row[0] for row in outbox],
        open_transactions=_open_transactions(database_url),
        listed=[_get(url, "/tasks/") for url in urls],
        ready=[_get(url, "/health/ready") for url in urls],
        message_totals=[total["total"] for total in totals],
        tracebacks=[text for log in sorted(folder.glob("*.log")) for text in tracebacks(log)],
    )


def _open_transactions(database_url: str) -> list[str]:
    """Return the transactions that stay open although no work is left."""
    sql = (
        "SELECT pid, CAST(xact_start AS text), query FROM pg_stat_activity"
        " WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
    )
    before = rows(database_url, sql)
    time.sleep(1)  # a transaction that is still open then is a finding
    return [str(row) for row in rows(database_url, sql) if row in before]


def _get(url: str, path: str) -> str:
    try:
        return httpx.get(url + path, timeout=10).text
    except httpx.TransportError as error:
        return f"{type(error).__name__}: {error}"


def tracebacks(log: Path) -> Iterator[str]:
    """Yield the tracebacks in a process's output that ALLOWED does not list."""
    lines = log.read_text(errors="replace").splitlines()
    for place, line in enumerate(lines):
        if "Traceback" not in line:
            continue
        text = line
        if not line.startswith("{"):  # not our log: the next lines belong to it
            below = takewhile(lambda line: not line.startswith("{"), lines[place:])
            text = "\n".join(below)
        if not any(all(word in text for word in words) for words in ALLOWED):
            yield f"{log.name}: {_short(text)}"


def _short(text: str) -> str:
    """Return the last line of a traceback, with the logged event."""
    try:
        record = json.loads(text)
    except ValueError:
        return text[:1500]
    event = str(record.get("event")).partition("\n")[0]
    exception = str(record.get("exception", "")).strip().splitlines()
    return f"{event}: {exception[-1] if exception else text[:500]}"
