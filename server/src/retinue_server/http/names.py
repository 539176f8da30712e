"""By which name a server that only its own machine reaches is called.

A page of anywhere may have a name that means this machine (DNS rebinding). A browser then takes the server for the
page's own, sends it what the page likes, and hands the page the answers.
"""

from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from retinue_server.errors import PermissionDeniedError
from retinue_server.http.exchange import refusal

# Source: RFC 6761, 6.3: it and what ends with it never mean another machine.
_LOCALHOST = "localhost"


class OwnNames:
    """Wraps an application: it answers who calls it by an address or as localhost, and refuses all others.

    Programs that send no `Host` are answered, too: browsers always do.

    Args:
        app: To protect.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or says why not."""
        app: ASGIApp = self._app
        if scope["type"] == "http" and not _is_own(Headers(scope=scope).get("host", "")):
            app = refusal(
                PermissionDeniedError(
                    "this server listens for its own machine and asks nobody who they are, so it must be called by "
                    "its address or as localhost. Give --tokens for callers by other names, or --insecure where a "
                    "proxy keeps strangers out.",
                    reason="FOREIGN_HOST",
                )
            )
        await app(scope, receive, send)


def _is_own(host: str) -> bool:
    if not host:
        return True
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if name == _LOCALHOST or name.endswith(f".{_LOCALHOST}"):
            return True
        ip_address(name)
    except ValueError:
        return False
    return True
