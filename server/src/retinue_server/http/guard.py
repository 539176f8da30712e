"""Turns callers away who have no token, before anything of their requests is read."""

from collections.abc import Callable
from typing import TypeAlias

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from retinue_server.errors import RetinueError
from retinue_server.http.exchange import refusal

# What orchestrators ask, whom nobody wants to hand a token to, and who call the server as they like.
PROBES = frozenset({"/livez", "/readyz"})


# Refuses the caller of a path, by the headers.
Check: TypeAlias = Callable[[str, list[tuple[str, str]]], object]


class Guard:
    """Wraps an application: all of it but probes needs a token; which, its calls say themselves.

    Args:
        app: To protect.
        check: Whose callers they may be.
    """

    def __init__(self, app: ASGIApp, check: Check) -> None:
        self._app = app
        self._check = check

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or says why not."""
        app: ASGIApp = self._app
        if scope["type"] == "http" and scope["path"] not in PROBES:
            try:
                self._check(scope["path"], Headers(scope=scope).items())
            except RetinueError as error:
                app = refusal(error)
        await app(scope, receive, send)
