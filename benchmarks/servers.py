"""The benchmark's PostgreSQL and RabbitMQ: each contender has its database and virtual host."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING

import psycopg2
from amqp import Connection
from amqp.exceptions import NotFound
from amqp.protocol import queue_declare_ok_t

from tests.support.servers import Postgres, RabbitMQ

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path


class Broker(RabbitMQ):
    """The tests' RabbitMQ, with the default number of schedulers (the tests' has one)."""

    def _command(self) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        argv, environment = super()._command()
        name = "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"
        return argv, {**environment, name: environment[name].replace("+S 1:1", "")}

    def add_host(self, name: str) -> str:
        """Make a virtual host and return its URL."""
        rights = ", ".join(['<<".*">>'] * 3)
        self.eval(
            f'rabbit_vhost:add(<<"{name}">>, <<"bench">>),'
            f' rabbit_auth_backend_internal:set_permissions(<<"guest">>, <<"{name}">>, {rights},'
            ' <<"bench">>)'
        )
        return f"amqp://guest:guest@127.0.0.1:{self.port}/{name}"

    def purge(self, host: str) -> None:
        """Empty all queues of a virtual host."""
        # A worker that has stopped takes its own queues with it, maybe between `list` and `purge`.
        queues = f'rabbit_amqqueue:list(<<"{host}">>)'
        self.eval(f"[(catch rabbit_amqqueue:purge(Queue)) || Queue <- {queues}], ok")


class Depth:
    """Counts the waiting messages and the consumers of some queues, in a millisecond."""

    def __init__(self, broker: Broker, host: str, queues: Sequence[str]) -> None:
        self._connection = _connection(broker, host)
        self._queues = queues

    def __call__(self) -> int:
        """Return how many messages wait in all of them."""
        return sum(found.message_count for found in self._look())

    def consumers(self) -> int:
        """Return how many consumers they have."""
        return sum(found.consumer_count for found in self._look())

    def close(self) -> None:
        """Disconnect."""
        self._connection.close()

    def _look(self) -> Iterator[queue_declare_ok_t]:
        self._connection.connect()  # does nothing if it is connected
        for queue in self._queues:
            channel = self._connection.channel()
            try:
                found = channel.queue_declare(queue, passive=True)
                if isinstance(found, queue_declare_ok_t):
                    yield found
            except NotFound:
                continue
            finally:
                channel.close()


class Succeeded:
    """Counts the tasks that have succeeded, by the events of Celery's workers."""

    def __init__(self, broker: Broker, host: str) -> None:
        self._connection = _connection(broker, host)
        self._count = 0

    def collect(self) -> None:
        """Collect events from now on; a worker must run already."""
        self._connection.connect()  # does nothing if it is connected
        self._channel = self._connection.channel()
        self._channel.queue_declare("events", exclusive=True)
        self._channel.queue_bind("events", "celeryev", "task.multi")

    def __call__(self) -> int:
        """Return how many have succeeded in all."""
        while (message := self._channel.basic_get("events", no_ack=True)) is not None:
            events = json.loads(message.body)
            self._count += sum(event["type"] == "task-succeeded" for event in events)
        return self._count

    def close(self) -> None:
        """Disconnect."""
        self._connection.close()


def _connection(broker: Broker, host: str) -> Connection:
    address = f"127.0.0.1:{broker.port}"
    return Connection(host=address, virtual_host=host, userid="guest", password="guest")


class Database:
    """SQL on a contender's database; each call is a separate transaction."""

    def __init__(self, url: str) -> None:
        self.url = url.replace("+psycopg2", "")

    def query(self, sql: str, *parameters: object) -> list[tuple[object, ...]]:
        """Run a statement and return its rows, if it has any."""
        connection = psycopg2.connect(self.url)
        connection.autocommit = True
        with closing(connection), connection.cursor() as cursor:
            cursor.execute(sql, parameters or None)
            return list(cursor.fetchall()) if cursor.description else []

    def number(self, sql: str, *parameters: object) -> int:
        """Return the result of a query that gives one number."""
        return int(str(self.query(sql, *parameters)[0][0]))


def postgres() -> Postgres:
    """Return a PostgreSQL, not started, with the default settings for durable commits.

    It takes the connections of a worker with 200 processes.
    """
    return Postgres({"max_connections": "500"})


def durability(database: Database) -> dict[str, str]:
    """Return the settings that make a commit final, as the server has them."""
    names = ("fsync", "synchronous_commit", "full_page_writes", "wal_sync_method")
    return {name: str(database.query(f"SHOW {name}")[0][0]) for name in names}
