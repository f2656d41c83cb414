"""FastAPI with taskiq on RabbitMQ (taskiq-aio-pika): persistent messages, confirmed one by one.

Run it with `uvicorn benchmarks.peers.with_taskiq:app`; it reads CELERY_BROKER_URL.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from pydantic import BaseModel, Field
from taskiq_aio_pika import AioPikaBroker

broker = AioPikaBroker(os.environ["CELERY_BROKER_URL"])


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Connect at the start, and disconnect at the end."""
    await broker.startup()
    yield
    await broker.shutdown()


app = FastAPI(lifespan=lifespan)


class MessageIn(BaseModel):
    """The body of a POST."""

    content: str = Field(min_length=1, max_length=10_000)


@broker.task
async def insert_message(content: str) -> None:
    """Do nothing, because only posting is measured."""


@app.post("/tasks/", status_code=202)
async def create_task(message: MessageIn) -> dict[str, str]:
    """Enqueue a message task."""
    task = await insert_message.kiq(message.content)
    return {
        "task_id": task.task_id,
        "status": "PENDING",
        "message": "Task enqueued successfully",
    }
