"""Refuses requests that a page of another web site makes the browser send.

A browser sends some requests without asking the server first: a form of any page can send a POST
without a body to any address.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import Depends, Request

from backend.errors import OtherSite

if TYPE_CHECKING:
    from starlette.datastructures import Headers

# Values of Sec-Fetch-Site (W3C, "Fetch Metadata Request Headers"): a page of this service, or the
# user.
_ALLOWED = {"same-origin", "none"}


async def _refuse_other_sites(request: Request) -> None:
    """Raise OtherSite for a request of a page of another web site; programs may send it."""
    if not _is_allowed(request.headers):
        raise OtherSite


def _is_allowed(headers: Headers) -> bool:
    if (site := headers.get("sec-fetch-site")) is not None:
        return site in _ALLOWED
    # An older browser. Other programs send neither header.
    origin = headers.get("origin")
    return origin is None or origin.partition("://")[2] == headers.get("host")


# For the `dependencies` of a route that a page of another site must not call.
SAME_ORIGIN = Depends(_refuse_other_sites)
