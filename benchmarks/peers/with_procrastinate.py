"""FastAPI with procrastinate: the queue is a table in PostgreSQL, a commit for each task.

Run it with `uvicorn benchmarks.peers.with_procrastinate:app`; it reads DATABASE_URL.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import procrastinate
from fastapi import FastAPI
from pydantic import BaseModel, Field

# 4 connections are the pool's default; 16 do best here.
queue = procrastinate.App(
    connector=procrastinate.PsycopgConnector(
        conninfo=os.environ["DATABASE_URL"].replace("+psycopg2", ""), min_size=4, max_size=16
    )
)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Connect while the application serves."""
    async with queue.open_async():
        await queue.schema_manager.apply_schema_async()
        yield


app = FastAPI(lifespan=lifespan)


class MessageIn(BaseModel):
    """What is posted."""

    content: str = Field(min_length=1, max_length=10_000)


@queue.task(queue="messages")
async def insert_message(content: str) -> None:
    """Not run here: only posting is measured."""


@app.post("/tasks/", status_code=202)
async def create_task(message: MessageIn) -> dict[str, str]:
    """Enqueue."""
    task_id = await insert_message.defer_async(content=message.content)
    return {
        "task_id": str(task_id),
        "status": "PENDING",
        "message": "Task enqueued successfully",
    }
