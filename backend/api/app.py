"""The application: routes, errors, documentation, and the threads behind them."""

from __future__ import annotations

import gc
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from fastapi_offline import FastAPIOffline

from backend.api import openapi, problems
from backend.api.forwarded import ForwardedHeaders
from backend.api.limits import RequestLimits
from backend.api.route_table import RouteTable
from backend.api.routes import batch, control, history, messages, system, tasks
from backend.api.routes.task_models import state_examples
from backend.api.services import Services
from backend.settings import settings
from backend.telemetry.logs import set_up_logging

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fastapi import FastAPI

DESCRIPTION: Final = """Post a task, get an id at once, read its outcome at any later time.

**A 202 is final**: the task is on disk, and it runs even if every process crashes next.

Each path works with and without its last slash. Each `GET` route answers `HEAD` too. A query
parameter that a route does not know is refused.
"""
TAGS: Final = [
    {"name": "Tasks", "description": "Work that a worker does after the answer was sent"},
    {"name": "Messages", "description": "What message tasks write"},
    {"name": "Health", "description": "The service itself"},
]


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    services = Services()
    app.state.services = services
    # The objects that exist now are kept until the end. Without freeze() the garbage collector
    # scans them again and again, which takes a tenth of the time of POST /tasks/.
    gc.collect()
    gc.freeze()
    try:
        yield {"stop_waiting": services.replies.stop_waiting}
    finally:
        await services.close()


def create_app() -> FastAPI:
    """Return the application, for uvicorn; its threads start and stop with it."""
    set_up_logging(settings().log_level, "api")
    app = FastAPIOffline(
        title="Tasks API",
        version=version("tasks-api"),
        description=DESCRIPTION,
        openapi_tags=TAGS,
        lifespan=_lifespan,
        redirect_slashes=False,
        # Nothing here exports telemetry, and the check for it costs time in each request.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    problems.install(app)
    openapi.install(app, state_examples())
    # Not include_router: it hides the routes in an object that RouteTable cannot look up by path.
    for routes in (tasks, batch, control, history, messages, system):
        app.router.routes += routes.router.routes
    # RouteTable answers every request. The routes stay listed for the OpenAPI document.
    app.router.routes.insert(0, RouteTable(app.router.routes))
    app.add_middleware(RequestLimits, root_path=settings().root_path)
    if settings().forwarded_allow_ips:
        app.add_middleware(ForwardedHeaders, trusted=settings().forwarded_allow_ips)
    return app
