"""The API's queues for replies and for answers of workers, deleted at the worst moment."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.stack import ROOT

if TYPE_CHECKING:
    from tests.support.servers import RabbitMQ

# Deletes the queue once, between its declaration and its consumer; ends when it is consumed.
SCRIPT = """
import asyncio
from kombu import Queue
from backend.api import inspector, replies
declare, deleted = Queue.declare, []

def declare_and_delete(queue, *args, **kwargs):
    declare(queue, *args, **kwargs)
    if not deleted:
        deleted.append(queue.delete())

Queue.declare = declare_and_delete

async def main():
    reader = {reader}
    while not (deleted and {reads}):
        await asyncio.sleep(0.01)
    reader.close()

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("reader", "reads"),
    [
        ("replies.ReplyListener(None)", "reader.connected"),
        ("inspector.Inspector()", "reader._connected.is_set()"),
    ],
    ids=["replies", "answers"],
)
def test_a_reply_queue_deleted_before_its_consumer_starts_is_declared_again(
    rabbitmq: RabbitMQ, reader: str, reads: str
) -> None:
    environment = {
        **os.environ,
        "DATABASE_URL": "postgresql+psycopg2://nobody@127.0.0.1:9/none",
        "CELERY_BROKER_URL": rabbitmq.url,
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(reader=reader, reads=reads)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"")
    (line,) = done.stderr.splitlines()
    assert line.startswith(b"the broker has lost a queue or exchange of ours (NOT_FOUND")
