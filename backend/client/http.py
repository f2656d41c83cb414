"""Requests to a running API."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import click

if TYPE_CHECKING:
    from collections.abc import Mapping

    import httpx

# The exit codes, for scripts. click uses 2 for wrong usage.
REFUSED = 1
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
    body: object = None,
    key: str | None = None,
) -> Reply:
    """Send a request to TASKS_API_URL and return the answer, whatever its status is.

    Empty values of the query are left out. Ends the command if no API answers.
    """
    import httpx  # noqa: PLC0415 - other commands start faster without it

    url = os.environ.get("TASKS_API_URL", DEFAULT_URL).rstrip("/")
    given = {name: value for name, value in (query or {}).items() if value not in (None, (), [])}
    try:
        answer = httpx.request(
            method,
            url + path,
            params=given,
            json=body,
            headers={"Idempotency-Key": key} if key else {},
            timeout=TIMEOUT_SECONDS,
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        _no_api(url, error)
    return Reply(answer.status_code, answer.text, answer.headers)


def _no_api(url: str, error: httpx.HTTPError | httpx.InvalidURL) -> NoReturn:
    click.echo(f"tasks-api: no API answers at {url} ({error}): set TASKS_API_URL", err=True)
    raise SystemExit(NO_API)


def good(reply: Reply) -> Reply:
    """Return an answer; end the command with the API's reason if it is an error."""
    if reply.status < 400:  # noqa: PLR2004 - errors begin here
        return reply
    try:
        reason = reply.json["detail"]
    except (ValueError, KeyError, TypeError):
        reason = f"status {reply.status}: is this a Tasks API?"
    click.echo(f"tasks-api: {reason}", err=True)
    raise SystemExit(REFUSED)
