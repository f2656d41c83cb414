"""The floor: FastAPI routes that validate the same requests as ours, and do nothing else.

Run it with `uvicorn benchmarks.peers.floor:app`.
"""

from typing import Annotated

from fastapi import FastAPI, Path, Query, Response

from backend.api.routes.task_models import TaskAccepted
from backend.tasks.insert_message import MessageIn

ID = "019a3f0e-7c1a-7d7e-9a53-0d8f2c7b1f55"
ACCEPTED = f'{{"task_id": "{ID}", "status": "PENDING", "message": "Task enqueued successfully"}}'
STATE = (
    f'{{"task_id":"{ID}","status":"SUCCESS","result":'
    '{"id": 123, "content": "Hello World", "created_at": "2025-10-16T14:30:00Z"}}'
)

app = FastAPI()


@app.post("/tasks/", status_code=202, response_model=TaskAccepted)
async def create_task(message: MessageIn) -> Response:  # noqa: ARG001 - it is only validated
    """Return a fixed 202."""
    return Response(ACCEPTED, 202, media_type="application/json")


@app.get("/tasks/{task_id}")
async def get_task(
    task_id: Annotated[str, Path()],  # noqa: ARG001 - the same
    wait: Annotated[float, Query(ge=0, le=60)] = 0,  # noqa: ARG001 - the same
) -> Response:
    """Return a fixed state."""
    return Response(STATE, media_type="application/json")
