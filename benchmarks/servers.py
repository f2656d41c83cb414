"""PostgreSQL and RabbitMQ of the benchmark's own; each contender has a part of its own in both."""

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
    """The tests' RabbitMQ with as many schedulers as it takes by itself; the tests' has one."""

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
        self.eval(f'[rabbit_amqqueue:purge(Q) || Q <- rabbit_amqqueue:list(<<"{host}">>)], ok')


class Depth:
    """Tells in a millisecond how many messages wait in some queues, and for how many consumers."""

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
        self._connection.connect()  # does nothing where it is
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
        """Collect events from now on; a worker has to run."""
        self._connection.connect()  # does nothing where it is
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
    """SQL on a contender's database; each call is a transaction of its own."""

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
        """Return the one number that a query gives."""
        return int(str(self.query(sql, *parameters)[0][0]))


def postgres() -> Postgres:
    """Return a PostgreSQL as it comes, so with durable commits."""
    return Postgres()


def durability(database: Database) -> dict[str, str]:
    """Return the settings that make a commit final, as the server has them."""
    names = ("fsync", "synchronous_commit", "full_page_writes", "wal_sync_method")
    return {name: str(database.query(f"SHOW {name}")[0][0]) for name in names}
