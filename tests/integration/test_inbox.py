"""The API's queue of replies, deleted at the worst moment."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.support.stack import ROOT

if TYPE_CHECKING:
    from tests.support.servers import RabbitMQ

# Deletes the queue between its declaration and its consumer, once; ends when replies are read.
SCRIPT = """
import asyncio, time
from kombu import Queue
from backend.api import inbox
declare, deleted = Queue.declare, []

def declare_and_delete(queue, *args, **kwargs):
    declare(queue, *args, **kwargs)
    if not deleted:
        deleted.append(queue.delete())

Queue.declare = declare_and_delete

async def main():
    reader = inbox.Inbox(None)
    while not (deleted and reader.connected):
        await asyncio.sleep(0.01)
    reader.close()

asyncio.run(main())
"""


def test_a_queue_that_is_deleted_before_it_is_read_is_made_again(rabbitmq: RabbitMQ) -> None:
    environment = {
        **os.environ,
        "DATABASE_URL": "postgresql+psycopg2://nobody@127.0.0.1:9/none",
        "CELERY_BROKER_URL": rabbitmq.url,
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
