"""Reads the query of a request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from starlette.requests import Request

    Faults = list[dict[str, Any]]

# A key of a route's `openapi_extra`: what ends the error text for an unknown query parameter. The
# OpenAPI document does not show it.
QUERY_HINT = "x-query-hint"


def unknown_parameter(known: Collection[str], hint: str = "") -> str:
    """Return the error text for a query parameter that is not known."""
    listed = f"known here: {', '.join(known)}" if known else "this route takes none"
    return f"unknown parameter; {listed}{hint}"


def read_query(
    request: Request, known: Mapping[str, bool], hint: str
) -> tuple[Mapping[str, Any], Faults]:
    """Return the parameters of the query, and a fault for each that is unknown or repeated.

    `known`: by name, whether it may have several values; then its value is a list.
    """
    given = request.query_params.multi_items()
    values: dict[str, Any] = dict(given)
    repeated = len(values) < len(given)
    faults: Faults = []
    for name in values:
        if name not in known:
            unknown = unknown_parameter(known, hint)
            faults.append({"type": "unknown", "loc": ("query", name), "msg": unknown})
        elif known[name]:
            values[name] = [value for each, value in given if each == name]
        elif repeated and sum(each == name for each, _ in given) > 1:
            again = "given more than once; give it once"
            faults.append({"type": "repeated", "loc": ("query", name), "msg": again})
    return values, faults
