"""Finds the route of a request."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NoReturn

from starlette._utils import get_route_path
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match, NoMatchFound, Route

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import ASGIApp, Receive, Scope, Send


class RouteTable(BaseRoute):
    """Finds routes by method and path.

    Literal paths (/tasks/slow) come first, in any order; then routes with parameters and mounts, in
    the order of declaration.
    """

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        """Index the routes. Raises TypeError if two have the same method and path."""
        self._literal: dict[tuple[str, str], Route] = {}
        self._patterns: defaultdict[str, list[Route]] = defaultdict(list)
        self._mounts: list[BaseRoute] = []
        for route in routes:
            if not isinstance(route, Route):
                self._mounts.append(route)
                continue
            for method in route.methods or ():
                if "{" in route.path:
                    self._patterns[method].append(route)
                elif (method, route.path) in self._literal:
                    raise TypeError(f"{method} {route.path} is declared twice")
                else:
                    self._literal[method, route.path] = route
        self._literal_paths = {path for _, path in self._literal}

    def url_path_for(self, name: str, /, **path_params: object) -> NoReturn:
        """Raise NoMatchFound: the routes themselves build paths."""
        raise NoMatchFound(name, path_params)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Return a full match for every HTTP request."""
        return (Match.FULL if scope["type"] == "http" else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request. Raises HTTPException 404 and 405.

        Every request passes here, those for the documentation too. This is the place for access
        control: after the route was found, before it is called. No route can bypass it.
        """
        answer = self._find(scope)
        await answer(scope, receive, send)

    def _find(self, scope: Scope) -> ASGIApp:
        """Return the ASGI app of a request; put the route and its parameters into the scope."""
        path, method = get_route_path(scope), scope["method"]
        if (route := self._literal.get((method, path))) is not None:
            scope.update(route=route, endpoint=route.endpoint, path_params={})
            return route.app
        # A literal path has no other meaning: GET /tasks/cancel asks for no task "cancel".
        patterns = () if path in self._literal_paths else self._patterns.get(method, ())
        for route in patterns:
            if match := route.path_regex.match(path):
                convert = route.param_convertors
                values = {name: convert[name].convert(x) for name, x in match.groupdict().items()}
                scope.update(route=route, endpoint=route.endpoint, path_params=values)
                return route.app
        for mount in self._mounts:
            found, child_scope = mount.matches(scope)
            if found is Match.FULL:
                scope.update({"route": mount, **child_scope})
                return mount.handle
        if allowed := self._allowed(path):
            raise HTTPException(405, headers={"Allow": ", ".join(sorted(allowed))})
        raise HTTPException(404)

    def _allowed(self, path: str) -> set[str]:
        """Return the methods of a path: of its literal routes, else of routes with parameters.

        HEAD is added to GET, since it is served as GET (limits.py).
        """
        allowed = {method for method, literal in self._literal if literal == path}
        if not allowed:
            allowed = {
                method
                for method, routes in self._patterns.items()
                for route in routes
                if route.include_in_schema and route.path_regex.match(path)
            }
        return allowed | {"HEAD"} if "GET" in allowed else allowed
