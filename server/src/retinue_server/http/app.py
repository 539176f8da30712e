"""The HTTP endpoints."""

from collections.abc import Awaitable, Callable

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from retinue_server import __version__
from retinue_server.service import VisionService


async def _nothing() -> None:
    """All that is counted is there."""


def build(
    service: VisionService,
    registry: CollectorRegistry | Collector,
    count: Callable[[], Awaitable[None]] = _nothing,
) -> Starlette:
    """The endpoints.

    - `/metrics`: for Prometheus.
    - `/livez`: 200 while the process can answer; 503 where only a restart helps.
    - `/readyz`: 200 where requests are taken, else 503.
    - `/`: what is here.

    Args:
        service: Whose they are.
        registry: What `/metrics` prints.
        count: Brings that up to date before.
    """

    async def index(request: Request) -> Response:
        return JSONResponse(
            {"name": "retinue", "version": __version__, "endpoints": ["/metrics", "/livez", "/readyz"]}
        )

    async def metrics(request: Request) -> Response:
        await count()
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
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
        ]
    )
