"""The names by which a server is called.

A page of anywhere may have a name that means this machine (DNS rebinding). A browser then takes the server for the
page's own, sends it what the page likes, and hands the page the answers.
"""

import re
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from retinue_server.errors import PermissionDeniedError
from retinue_server.http.exchange import refusal
from retinue_server.http.guard import PROBES

# Source: RFC 9110, 7.2.
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::[0-9]*)?")
# Source: RFC 6761, 6.3: it and what ends with it never mean another machine.
_LOCALHOST = "localhost"


class OwnNames:
    """Wraps an application: it answers who calls it by an address, as localhost or by one of its names.

    Programs that send no `Host` are answered, too: browsers always do.

    Args:
        app: To protect.
        names: In lower case.
    """

    def __init__(self, app: ASGIApp, names: frozenset[str]) -> None:
        self._app = app
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or says why not."""
        app: ASGIApp = self._app
        if scope["type"] == "http" and scope["path"] not in PROBES:
            host = Headers(scope=scope).get("host", "")
            if host and not self._is_own(host.lower()):
                app = refusal(
                    PermissionDeniedError(
                        "this is no name of this server: call it by its address or as localhost, or give the name with "
                        "--http-names.",
                        reason="FOREIGN_HOST",
                    )
                )
        await app(scope, receive, send)

    def _is_own(self, host: str) -> bool:
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = found[1] or found[2].rstrip(".")
        if name in self._names or name == _LOCALHOST or name.endswith(f".{_LOCALHOST}"):
            return True
        try:
            ip_address(name)
        except ValueError:
            return False
        return True
