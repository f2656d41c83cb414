"""Requests to a running API."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import click

if TYPE_CHECKING:
    from collections.abc import Mapping


# The exit codes, for scripts. click uses 2 for wrong usage.
FAILED = 1
NO_API = 3
OUT_OF_TIME = 124  # as timeout(1) has it

DEFAULT_URL = "http://localhost:8060"
TIMEOUT_SECONDS = 70.0  # more than the longest `wait=`


class Reply(NamedTuple):
    """An answer of the API; `body` is its text."""

    status: int
    body: str
    headers: Mapping[str, str]

    @property
    def json(self) -> Any:  # noqa: ANN401 - JSON
        """Return the body as a value."""
        return json.loads(self.body)


def request(
    method: str,
    path: str,
    *,
    query: Mapping[str, Any] | None = None,
    body: str | None = None,
    key: str | None = None,
) -> Reply:
    """Send a request to TASKS_API_URL; return the answer, which is JSON.

    `body` is JSON text. Empty values of the query are left out. Ends the command with a reason if
    no API answers, or if the answer is an error.
    """
    import httpx  # noqa: PLC0415 - other commands start faster without it

    url = os.environ.get("TASKS_API_URL", DEFAULT_URL).rstrip("/")
    given = {name: value for name, value in (query or {}).items() if value not in (None, (), [])}
    headers = {"Content-Type": "application/json"} if body else {}
    try:
        answer = httpx.request(
            method,
            url + path,
            params=given,
            content=body,
            headers=headers | ({"Idempotency-Key": key} if key else {}),
            timeout=TIMEOUT_SECONDS,
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        _end(
            NO_API,
            f"no API answers at {url} ({error}). Start it with `make run`, or set TASKS_API_URL",
        )
    except ValueError as error:  # such as a header that is not ASCII
        raise click.UsageError(str(error)) from error
    return _checked(Reply(answer.status_code, answer.text, answer.headers), url)


def _checked(reply: Reply, url: str) -> Reply:
    """Return an answer; end the command if it is not what the API answers to a good request."""
    good = 200 <= reply.status < 300  # noqa: PLR2004 - the range of good answers
    try:
        reason = reply.json if good else reply.json["detail"]
    except (ValueError, KeyError, TypeError):
        good, reason = False, f"{url} answered {reply.status} without a reason: check TASKS_API_URL"
    if not good:
        _end(FAILED, reason)
    return reply


def _end(code: int, reason: str) -> NoReturn:
    click.echo(f"tasks-api: {reason}", err=True)
    raise SystemExit(code)
