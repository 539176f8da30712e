"""The HTTP endpoints."""

from collections.abc import Awaitable, Callable, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from retinue_server import __version__
from retinue_server.http import protocol, vision
from retinue_server.http.exchange import Exchanges
from retinue_server.http.guard import Check, Guard
from retinue_server.http.names import OwnNames
from retinue_server.http.page import PREFIX, Facts, Page
from retinue_server.rpc.methods import Methods
from retinue_server.service import VisionService

# Most of what packing can spare, in a fifth of the time of the best.
_PACKING_LEVEL = 1
_WORTH_PACKING_BYTES = 4096


def calls(exchanges: Exchanges, methods: Methods, max_images: int) -> list[Route]:
    """The endpoints of calls, of both services.

    Args:
        exchanges: Answers requests as calls.
        methods: What answers the calls.
        max_images: What one request may have.
    """
    return protocol.routes(exchanges, methods) + vision.routes(exchanges, methods, max_images)


async def _nothing() -> None:
    """All that is counted is there."""


def build(
    service: VisionService,
    registry: CollectorRegistry | Collector,
    count: Callable[[], Awaitable[None]] = _nothing,
    calls: Sequence[BaseRoute] = (),
    check: Check | None = None,
    page: Facts | None = None,
    own_names: frozenset[str] | None = None,
) -> Starlette:
    """The endpoints.

    - `/metrics`: for Prometheus.
    - `/livez`: 200 while the process can answer; 503 where only a restart helps.
    - `/readyz`: 200 where requests are taken, else 503.
    - `/v1/...` and `/v2/...`: the calls.
    - `/`: what is here.
    - `/ui/`: the page for browsers, which `/` leads them to.

    Args:
        service: Whose they are.
        registry: What `/metrics` prints.
        count: Brings that up to date before.
        calls: The endpoints of calls.
        check: Refuses callers of paths; None lets everybody have all.
        page: What the page for browsers is told of the server; None where there is no page.
        own_names: The names by which it may be called besides addresses and localhost; None for any.
    """
    names = [Middleware(OwnNames, names=own_names)] if own_names is not None else []
    # Its files are for everybody, so that it can ask for a token.
    pages = [Middleware(Page, facts=page)] if page is not None else []
    guard = [Middleware(Guard, check=check)] if check is not None else []
    patterns = [route.path_format for route in calls if isinstance(route, Route)]
    # Several have one pattern, for one method each.
    own = ["/metrics", "/livez", "/readyz", *([PREFIX] if page is not None else [])]
    endpoints = [*own, *sorted(set(patterns))]

    async def index(request: Request) -> Response:
        return JSONResponse({"name": "retinue", "version": __version__, "endpoints": endpoints})

    async def metrics(request: Request) -> Response:
        await count()
        encode, content_type = _encoder(request.headers.get("accept", ""))
        return Response(encode(registry), media_type=content_type)

    async def livez(request: Request) -> Response:
        if service.alive:
            return PlainTextResponse("alive\n")
        return PlainTextResponse("the engine has failed\n", status_code=503)

    async def readyz(request: Request) -> Response:
        if service.ready:
            return PlainTextResponse("ready\n")
        return PlainTextResponse("not ready\n", status_code=503)

    return Starlette(
        routes=[
            Route("/", index),
            Route("/metrics", metrics),
            Route("/livez", livez),
            Route("/readyz", readyz),
            *calls,
        ],
        middleware=[
            *names,
            *pages,
            *guard,
            Middleware(GZipMiddleware, minimum_size=_WORTH_PACKING_BYTES, compresslevel=_PACKING_LEVEL),
        ],
        exception_handlers={HTTPException: _no_endpoint},
    )


def _encoder(accept: str) -> tuple[Callable[[Collector], bytes], str]:
    """What writes the page as a caller wants it, or as it is by default where nobody can read what they want."""
    try:
        return choose_encoder(accept)
    except (ValueError, TypeError):
        # A version that is none, which the library compares all the same.
        return choose_encoder("")


async def _no_endpoint(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = {404: "NOT_FOUND", 405: "UNIMPLEMENTED"}.get(error.status_code, "INVALID_ARGUMENT")
    message = (
        f"there is no {request.method} {request.url.path[:128]} here; {_advice(request.url.path, error)}."
    )
    return JSONResponse(
        {"error": message, "status": status, "reason": "NO_ENDPOINT"}, error.status_code, error.headers
    )


def _advice(path: str, error: HTTPException) -> str:
    """What there is instead of a path, or of a method of it."""
    allowed = sorted({*(error.headers or {}).get("Allow", "").split(", ")} - {"HEAD", ""})
    if allowed:
        return f"use {' or '.join(allowed)}"
    if path.startswith("/v1/models/"):
        return "models have :classify, :detect and :segment, as in POST /v1/models/NAME:classify"
    if path.rstrip("/") == "/v2/models":
        return "there are /v2/models/NAME and, of all models, POST /v2/repository/index"
    return "GET / lists what is"
