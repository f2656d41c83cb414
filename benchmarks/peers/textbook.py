"""The app that most people write for this: `def` routes, `.delay()`, `rpc://`, `inspect()`, ORM.

Run it with `uvicorn benchmarks.peers.textbook:app` and
`celery -A benchmarks.peers.textbook:celery worker`; it reads DATABASE_URL and CELERY_BROKER_URL.
"""

import os
from datetime import datetime

from celery import Celery
from celery.result import AsyncResult
from fastapi import FastAPI
from pydantic import BaseModel, Field
from sqlalchemy import DateTime, Text, create_engine, func
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

celery = Celery("textbook", broker=os.environ["CELERY_BROKER_URL"], backend="rpc://")
celery.conf.task_default_queue = "textbook"
celery.conf.worker_send_task_events = True  # for Flower, as ours
engine = create_engine(os.environ["DATABASE_URL"])
app = FastAPI()


class Base(DeclarativeBase):
    pass


class Message(Base):
    __tablename__ = "textbook_messages"

    id: Mapped[int] = mapped_column(primary_key=True)
    content: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now()
    )


class MessageIn(BaseModel):
    content: str = Field(min_length=1, max_length=10_000)


@celery.task
def insert_message(content: str) -> dict[str, object]:
    with Session(engine) as session:
        message = Message(content=content)
        session.add(message)
        session.commit()
        session.refresh(message)
        return {
            "id": message.id,
            "content": message.content,
            "created_at": message.created_at.isoformat(),
        }


@app.post("/tasks/", status_code=202)
def create_task(message: MessageIn) -> dict[str, str]:
    task = insert_message.delay(message.content)
    return {"task_id": task.id, "status": "PENDING", "message": "Task enqueued successfully"}


@app.get("/tasks/")
def list_tasks() -> dict[str, object]:
    inspect = celery.control.inspect()
    tasks = []
    for status, held in (
        ("ACTIVE", inspect.active()),
        ("SCHEDULED", inspect.scheduled()),
        ("RESERVED", inspect.reserved()),
    ):
        for requests in (held or {}).values():
            tasks += [{"task_id": request["id"], "status": status} for request in requests]
    return {"tasks": tasks, "total": len(tasks)}


@app.get("/tasks/{task_id}")
def get_task(task_id: str) -> dict[str, object]:
    result = AsyncResult(task_id, app=celery)
    value = result.result if result.ready() else None
    return {"task_id": task_id, "status": result.status, "result": value}
