"""How a request finds its route."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from starlette._utils import get_route_path
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match, NoMatchFound, Route

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import Receive, Scope, Send


class RouteTable(BaseRoute):
    """Finds routes by method and path.

    Literal paths (/tasks/slow) come first, in any order; then routes with parameters and mounts, in
    the order of declaration.
    """

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        """Index the routes. Raises TypeError if two have the same method and path."""
        self._literal: dict[tuple[str, str], Route] = {}
        self._others: list[BaseRoute] = []
        for route in routes:
            if not isinstance(route, Route) or "{" in route.path:
                self._others.append(route)
                continue
            for method in route.methods or ():
                if (method, route.path) in self._literal:
                    raise TypeError(f"{method} {route.path} is declared twice")
                self._literal[method, route.path] = route

    def url_path_for(self, name: str, /, **path_params: object) -> NoReturn:
        """Leave it to the routes themselves."""
        raise NoMatchFound(name, path_params)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match every HTTP request."""
        return (Match.FULL if scope["type"] == "http" else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request. Raises HTTPException 404 and 405.

        Every request passes here, those for the documentation too. This is the place for access
        control: after the route was found, before it is called. No route can bypass it.
        """
        route = self._find(scope)
        await route.handle(scope, receive, send)

    def _find(self, scope: Scope) -> BaseRoute:
        """Return the request's route, and put what it needs into the scope."""
        path = get_route_path(scope)
        found = self._literal.get((scope["method"], path))
        if found is not None:
            scope.update(route=found, endpoint=found.endpoint, path_params={})
            return found
        for route in self._others:
            match, child_scope = route.matches(scope)
            if match is Match.FULL:
                scope.update({"route": route, **child_scope})
                return route
        allowed = self._allowed(scope, path)
        if allowed:
            raise HTTPException(405, headers={"Allow": ", ".join(sorted(allowed))})
        raise HTTPException(404)

    def _allowed(self, scope: Scope, path: str) -> set[str]:
        """Return the methods of a path, those of its literal routes where it has any.

        HEAD is one wherever GET is: it is served as GET (limits.py).
        """
        allowed = {method for method, literal in self._literal if literal == path}
        if not allowed:
            fitting = [each for each in self._others if each.matches(scope)[0] is not Match.NONE]
            shown = [each for each in fitting if isinstance(each, Route) and each.include_in_schema]
            allowed = {method for route in shown for method in route.methods or ()}
        return allowed | {"HEAD"} if "GET" in allowed else allowed
