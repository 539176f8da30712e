"""The page for browsers: its files, which hold no secret; whatever they ask needs what programs need."""

import gzip
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

FOLDER = Path(__file__).parent.parent / "page"
PREFIX = "/ui/"

_INDEX = "index.html"
_FACTS = "server.json"
_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_PACKED = frozenset({".css", ".html", ".js", ".svg"})
_ASKING = frozenset({"GET", "HEAD"})

# Nothing but what this server gives, and no text that becomes a script.
# Source: Content Security Policy Level 3, and Trusted Types.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "permissions-policy": "camera=(self), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    # It is asked for each time, and sent where it has changed.
    "cache-control": "no-cache",
    "vary": "accept-encoding",
}

Facts = Callable[[], Mapping[str, Any]]


@dataclass(frozen=True)
class _File:
    """One file of the page.

    Attributes:
        content: Its bytes.
        packed: The same as gzip; None where that would spare nothing.
        media_type: Of it.
    """

    content: bytes
    packed: bytes | None
    media_type: str

    @classmethod
    def read(cls, path: Path) -> "_File":
        content = path.read_bytes()
        packed = gzip.compress(content, mtime=0) if path.suffix in _PACKED else None
        return cls(content, packed, _MEDIA_TYPES[path.suffix])


class Page:
    """Wraps an application: `/ui/` and what is below it is the page, where browsers that ask for `/` are led.

    Everything else is the application's, for browsers and programs alike.

    Args:
        app: What to wrap.
        facts: What the page is told of the server before it has shown a token: no secrets.
    """

    def __init__(self, app: ASGIApp, facts: Facts) -> None:
        self._app = app
        self._facts = facts
        self._files = {
            path.name: _File.read(path) for path in FOLDER.iterdir() if path.suffix in _MEDIA_TYPES
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or has the application do so."""
        app: ASGIApp | None = None
        if scope["type"] == "http" and scope["method"] in _ASKING:
            app = self._answer(scope["path"], Headers(scope=scope))
        await (app or self._app)(scope, receive, send)

    def _answer(self, path: str, headers: Headers) -> Response | None:
        if path == PREFIX.rstrip("/") or (path == "/" and "text/html" in headers.get("accept", "")):
            # Relative, so that it holds behind a proxy that has the server below a path of its own.
            return RedirectResponse("ui/", HTTPStatus.FOUND, headers={"vary": "accept"})
        if not path.startswith(PREFIX):
            return None
        name = path.removeprefix(PREFIX) or _INDEX
        if name == _FACTS:
            content = json.dumps(dict(self._facts())).encode()
            return _reply(_File(content, None, "application/json"), headers)
        file = self._files.get(name)
        return _reply(file, headers) if file is not None else None


def _reply(file: _File, headers: Headers) -> Response:
    wants_packed = file.packed is not None and "gzip" in headers.get("accept-encoding", "")
    content = file.packed if wants_packed and file.packed is not None else file.content
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    told = _HEADERS | {"etag": tag}
    if tag in headers.get("if-none-match", ""):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=told)
    if wants_packed:
        told |= {"content-encoding": "gzip"}
    return Response(content, headers=told, media_type=file.media_type)
