"""The routes about the service itself."""

from __future__ import annotations

from html import escape
from typing import Literal

from fastapi import Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import Field

from backend.api.body import Answer
from backend.api.openapi import STORE_AWAY, router_of
from backend.api.services import services_of
from backend.errors import NotMigrated
from backend.settings import settings


class Health(Answer):
    """The process serves."""

    status: Literal["healthy"]


class Readiness(Answer):
    """Tasks can be accepted; `degraded` lists problems."""

    status: Literal["ready"]
    degraded: list[str] = Field(
        description="Problems that do not stop tasks from being accepted",
        examples=[["no worker is running: tasks wait until one is"]],
    )


class Links(Answer):
    """Where to go from here."""

    docs: str = Field(examples=["/docs"])
    redoc: str = Field(examples=["/redoc"])
    flower: str = Field(examples=["http://localhost:5555"])


router = router_of("Health")

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Tasks API</title>
<style>body{{font:16px/1.6 system-ui,sans-serif;max-width:40rem;margin:4rem auto;padding:0 1rem}}
pre{{background:#f4f4f4;padding:1rem;overflow:auto}}</style>
<h1>Tasks API</h1>
<p>Post a task, get an id at once, read its outcome at any later time.</p>
<ul><li><a href="{docs}">Swagger UI</a>: try every route</li>
<li><a href="{redoc}">ReDoc</a>: read about every route</li>
<li><a href="{flower}">Flower</a>: watch workers and tasks</li></ul>
<pre>curl -X POST {base}tasks/ \\
  -H "Content-Type: application/json" \\
  -d '{{"content": "Hello World"}}'</pre></html>
"""


@router.get(
    "/",
    response_model=Links,
    responses={200: {"content": {"text/html": {"schema": {"type": "string"}}}}},
    summary="Where to go from here",
)
async def get_links(request: Request) -> Response:
    """Return links to the documentation and to Flower: JSON, or a page for a browser."""
    root_path = settings().root_path
    links = {
        "docs": f"{root_path}/docs",
        "redoc": f"{root_path}/redoc",
        "flower": _flower(request),
    }
    if "text/html" in request.headers.get("accept", ""):
        safe = {name: escape(link) for name, link in links.items()}
        return HTMLResponse(_PAGE.format(**safe, base=escape(str(request.base_url))))
    return JSONResponse(links)


def _flower(request: Request) -> str:
    """Return Flower's URL: with its prefix behind a trusted proxy, else with its port."""
    path = settings().flower_path
    if path and "forwarded" in request.scope:
        return str(request.base_url.replace(path=path))
    return str(request.base_url.replace(scheme="http", port=settings().flower_port, path=path))


@router.get("/health", name="get_health", summary="Is it healthy?")
@router.get("/health/live", name="get_liveness", summary="Does the process serve?")
async def health() -> Health:
    """Return 200 while the process serves."""
    return Health(status="healthy")


@router.get(
    "/health/ready",
    responses=STORE_AWAY,
    summary="Can tasks be accepted?",
)
async def get_readiness(request: Request) -> Readiness:
    """Return 200 while tasks can be accepted, with what is degraded; else 503 with the reason."""
    services = services_of(request)
    readiness = await services.readiness.submit(None)
    if not readiness.migrated:
        raise NotMigrated
    degraded = [*readiness.faults]
    if not services.replies.connected:
        degraded.append("the broker cannot be reached: tasks are accepted and run when it is back")
    elif services.relay_blocked():
        degraded.append(
            "the broker has an alarm and blocks publishing: tasks are accepted and run when it has"
            " cleared"
        )
    elif not readiness.relayed:
        # A relay in another process may be the one that is blocked.
        degraded.append(
            "nothing is published: no relay runs, or the broker has an alarm and blocks publishing"
            " (see the relays' logs). Tasks are accepted and run when publishing works again"
        )
    if not readiness.workers:
        degraded.append("no worker is running: tasks wait until one is")
    return Readiness(status="ready", degraded=degraded)
