"""The app that most people would write: `def` routes, `.delay()`, `rpc://`, `inspect()`, ORM.

Run it with `uvicorn benchmarks.peers.textbook:app` and
`celery -A benchmarks.peers.textbook:celery worker`; it reads DATABASE_URL and CELERY_BROKER_URL.
"""

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

from celery import Celery
from celery.result import AsyncResult
from fastapi import FastAPI
from pydantic import BaseModel, Field
from sqlalchemy import DateTime, Text, create_engine, func
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

celery = Celery("textbook", broker=os.environ["CELERY_BROKER_URL"], backend="rpc://")
celery.conf.task_default_queue = "textbook"
celery.conf.worker_send_task_events = True  # for Flower, as in our service
engine = create_engine(os.environ["DATABASE_URL"])


class Base(DeclarativeBase):
    """The base class of the tables."""


class Message(Base):
    """A stored message."""

    __tablename__ = "textbook_messages"

    id: Mapped[int] = mapped_column(primary_key=True)
    content: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Create the tables before the first request."""
    Base.metadata.create_all(engine)
    yield


app = FastAPI(lifespan=lifespan)


class MessageIn(BaseModel):
    """The body of a POST."""

    content: str = Field(min_length=1, max_length=10_000)


@celery.task
def insert_message(content: str) -> dict[str, object]:
    """Insert a message into the database."""
    # The usual commit() and refresh() would need a second transaction, and make the task slower.
    with Session(engine) as session, session.begin():
        message = Message(content=content)
        session.add(message)
        session.flush()  # fills in id and created_at
        return {
            "id": message.id,
            "content": message.content,
            "created_at": message.created_at.isoformat(),
        }


@celery.task
def slow(duration: int) -> dict[str, str]:
    """Sleep for `duration` seconds."""
    time.sleep(duration)
    return {"message": f"Task completed after {duration} seconds"}


@app.post("/tasks/", status_code=202)
def create_task(message: MessageIn) -> dict[str, str]:
    """Enqueue a message task."""
    task = insert_message.delay(message.content)
    return {"task_id": task.id, "status": "PENDING", "message": "Task enqueued successfully"}


@app.post("/tasks/slow", status_code=202)
def create_slow_task(duration: int = 10) -> dict[str, str]:
    """Enqueue a slow task."""
    task = slow.delay(duration)
    message = f"Slow task enqueued for {duration} seconds"
    return {"task_id": task.id, "status": "PENDING", "message": message}


@app.get("/tasks/")
def list_tasks() -> dict[str, object]:
    """Return the unfinished tasks: ask all workers, once for each status."""
    inspect = celery.control.inspect()
    active, scheduled, reserved = inspect.active(), inspect.scheduled(), inspect.reserved()
    tasks = [(task["id"], "ACTIVE") for held in (active or {}).values() for task in held]
    tasks += [
        (task["request"]["id"], "SCHEDULED") for held in (scheduled or {}).values() for task in held
    ]
    tasks += [(task["id"], "RESERVED") for held in (reserved or {}).values() for task in held]
    rows = [{"task_id": task_id, "status": status} for task_id, status in tasks]
    return {"tasks": rows, "total": len(rows)}


@app.get("/tasks/{task_id}")
def get_task(task_id: str) -> dict[str, object]:
    """Return a task's state, read from the reply queue."""
    result: AsyncResult[object] = AsyncResult(task_id, app=celery)
    value = result.result if result.ready() else None
    return {"task_id": task_id, "status": result.status, "result": value}
