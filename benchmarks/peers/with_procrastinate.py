"""FastAPI with procrastinate: the queue is a table in PostgreSQL, a commit for each task.

Run it with `uvicorn benchmarks.peers.with_procrastinate:app`; it reads DATABASE_URL.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import procrastinate
from fastapi import FastAPI
from pydantic import BaseModel, Field

# The pool's default is 4 connections; 16 are fastest here.
queue = procrastinate.App(
    connector=procrastinate.PsycopgConnector(
        conninfo=os.environ["DATABASE_URL"].replace("+psycopg2", ""), min_size=4, max_size=16
    )
)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Connect at the start, and disconnect at the end."""
    async with queue.open_async():
        await queue.schema_manager.apply_schema_async()
        yield


app = FastAPI(lifespan=lifespan)


class MessageIn(BaseModel):
    """The body of a POST."""

    content: str = Field(min_length=1, max_length=10_000)


@queue.task(queue="messages")
async def insert_message(content: str) -> None:
    """Do nothing, because only posting is measured."""


@app.post("/tasks/", status_code=202)
async def create_task(message: MessageIn) -> dict[str, str]:
    """Enqueue a message task."""
    task_id = await insert_message.defer_async(content=message.content)
    return {
        "task_id": str(task_id),
        "status": "PENDING",
        "message": "Task enqueued successfully",
    }
