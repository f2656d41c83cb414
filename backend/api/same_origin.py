"""Refuses requests that a page of another web site makes the browser send (CSRF).

A browser sends some requests without asking the server first: a form of any page can send a POST
without a body to any address.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import Depends, Request

from backend.errors import OtherSite

if TYPE_CHECKING:
    from collections.abc import Mapping

# Values of Sec-Fetch-Site (W3C, "Fetch Metadata Request Headers"): a page of this service; the
# user, for example by the address bar.
_ALLOWED = {b"same-origin", b"none"}


async def _refuse_other_sites(request: Request) -> None:
    """Raise OtherSite for a request of a page of another web site; programs may send it."""
    if not _is_allowed(dict(request.scope["headers"])):
        raise OtherSite


def _is_allowed(headers: Mapping[bytes, bytes]) -> bool:
    if (site := headers.get(b"sec-fetch-site")) is not None:
        return site in _ALLOWED
    # An older browser. Other programs send neither header.
    origin = headers.get(b"origin")
    return origin is None or origin.partition(b"://")[2] == headers.get(b"host")


# For the `dependencies` of a route that a page of another site must not call.
SAME_ORIGIN = Depends(_refuse_other_sites)
