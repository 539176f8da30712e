"""The server as a whole: builds the parts, opens when the models are loaded, drains when told to stop."""

import asyncio
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import structlog
from starlette.applications import Starlette

from retinue_server import core, exposure
from retinue_server.catalog import Catalog
from retinue_server.connections import ConnectionLimits, allow_files
from retinue_server.errors import StartupError
from retinue_server.front_ends import FrontEnds
from retinue_server.http import app as http_app
from retinue_server.http.exchange import Exchanges
from retinue_server.http.page import Facts
from retinue_server.http.server import HttpServer
from retinue_server.metrics import Metrics
from retinue_server.publisher import Publisher
from retinue_server.rpc import methods
from retinue_server.rpc.access import Access
from retinue_server.rpc.call_records import CallRecords
from retinue_server.rpc.calls import Calls
from retinue_server.rpc.inference_servicer import InferenceServicer
from retinue_server.rpc.model_control import ModelControl
from retinue_server.rpc.server import RpcServer
from retinue_server.rpc.servicer import VisionServicer
from retinue_server.runtime.providers import RUNTIME_VERSION, Provider
from retinue_server.service import VisionService
from retinue_server.settings import Settings
from retinue_server.shared_memory import SharedMemoryRegions
from retinue_server.tls import IdentityFiles
from retinue_server.tokens import TokenFile
from retinue_server.tracing.tracer import LAST_SPANS_SECONDS, Tracer

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Ready:
    """What a server that takes requests says of itself.

    Attributes:
        host: The address it listens on.
        grpc_port: Its gRPC port.
        http_port: Its HTTP port.
        catalog: Its models.
        provider: What runs them.
        start_seconds: From the process's start until then.
        encrypted: Whether both ports speak TLS.
        client_options: What the client's command needs before what it is to do.
        has_page: Whether there is a page for browsers.
    """

    host: str
    grpc_port: int
    http_port: int
    catalog: Catalog
    provider: Provider
    start_seconds: float
    encrypted: bool = False
    client_options: str = ""
    has_page: bool = False


async def serve(settings: Settings, on_ready: Callable[[Ready], None]) -> None:
    """Runs a server until a signal ends it, then drains it: what is in flight is finished, nothing new is taken.

    Args:
        settings: How.
        on_ready: Called when requests are taken.

    Raises:
        StartupError: The server cannot start as told.
    """
    core.prepare_process()
    allow_files()
    stop = _stop_signalled(asyncio.get_running_loop())

    identity = _checked_identity(settings)
    tracer = Tracer.of(settings)
    publisher = Publisher(asyncio.get_running_loop())
    metrics = _metrics(settings, tracer)
    vision = core.Core(
        settings,
        metrics,
        publisher,
        cancelled=stop.is_set,
        forget=lambda name, version: _forget(name, version, metrics, rpc),
    )
    settings, service = vision.settings, vision.service
    metrics.publish_server(RUNTIME_VERSION, lambda: service.ready, identity)
    rpc, pages, calls = _plan_front(vision, identity, tracer)
    publisher.attach(service, rpc)
    http = HttpServer(pages, settings.host, settings.http_port, identity, ConnectionLimits.of(settings))
    await rpc.start()
    http.start()
    vision.start()
    try:
        catalog = await vision.load()
        if not stop.is_set():
            await _open(service, rpc, catalog, stop)
            if not stop.is_set():
                on_ready(_ready(settings, rpc.port, http.port, catalog, vision.provider))
                vision.repository.follow()
            await stop.wait()
        _log.info("draining", grace_seconds=settings.drain_seconds)
    finally:
        service.drain()
        await rpc.close()
        # With front-ends, what they have answered may still be on its way over HTTP.
        await asyncio.gather(rpc.finish(settings.drain_seconds), calls.finished(settings.drain_seconds))
        # What still waits is answered with UNAVAILABLE before the connections close.
        await vision.stop()
        await rpc.stop()
        # What runs has had its time.
        await vision.close()
        await http.stop()
        if tracer is not None:
            await asyncio.to_thread(tracer.close, LAST_SPANS_SECONDS)
    _log.info("stopped")


def _metrics(settings: Settings, tracer: Tracer | None) -> Metrics:
    metrics = Metrics(triton_names=settings.triton_metrics == "on")
    metrics.publish_traces(tracer)
    return metrics


async def _open(
    service: VisionService, rpc: RpcServer | FrontEnds, catalog: Catalog, stop: asyncio.Event
) -> None:
    """Begins to take requests, unless told to stop meanwhile: a front-end may take a second to be ready."""
    if isinstance(rpc, RpcServer):
        service.open(catalog)
        await rpc.open(catalog)
        return
    opening, stopping = asyncio.ensure_future(rpc.open(catalog)), asyncio.ensure_future(stop.wait())
    await asyncio.wait([opening, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    await asyncio.wait([stopping])
    if opening.done():
        opening.result()
        service.open(catalog, reachable=lambda: rpc.ready)
    else:
        opening.cancel()
        await asyncio.wait([opening])


def _forget(name: str, version: int, metrics: Metrics, rpc: RpcServer | FrontEnds) -> None:
    """Drops what was counted of a model that is gone."""
    metrics.forget_model(name, version)
    if isinstance(rpc, FrontEnds):
        rpc.forget_model(name, version)


def _stop_signalled(loop: asyncio.AbstractEventLoop) -> asyncio.Event:
    """What is set by SIGTERM or SIGINT, and when the terminal closes, unless nohup has the process outlive that."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            loop.add_signal_handler(number, stop.set)
    return stop


def _ready(settings: Settings, grpc_port: int, http_port: int, catalog: Catalog, provider: Provider) -> Ready:
    seconds = _process_age_seconds()
    encrypted = bool(settings.tls_certificate)
    options = [
        (encrypted, " --tls-ca CA.pem"),
        (bool(settings.tls_client_ca), " --tls-certificate YOURS.pem --tls-key YOURS.key"),
        (bool(settings.tokens), " --token-file TOKEN"),
    ]
    needed = "".join(option for is_needed, option in options if is_needed)
    ready = Ready(
        settings.host,
        grpc_port,
        http_port,
        catalog,
        provider,
        seconds,
        encrypted,
        needed,
        has_page=settings.ui == "on",
    )
    _log.info("ready", grpc_port=grpc_port, http_port=http_port, seconds=round(ready.start_seconds, 3))
    return ready


def _checked_identity(settings: Settings) -> IdentityFiles | None:
    """Refuses settings that do not go together; who the server is to callers, None where nothing is encrypted."""
    _check_control(settings)
    exposure.check(settings)
    return IdentityFiles.of(settings)


def _check_control(settings: Settings) -> None:
    if settings.workers and settings.system_shared_memory == "on":
        raise StartupError(
            "--system-shared-memory on does not work with --workers, of which each would know the regions that were "
            "registered with it; leave one of the two out."
        )
    if settings.load_models and settings.model_control != "explicit":
        raise StartupError(
            "--load-models is for --model-control explicit; otherwise all models of the folder are loaded."
        )


def _process_age_seconds() -> float:
    return time.time() - psutil.Process().create_time()


def _plan_front(
    vision: core.Core, identity: IdentityFiles | None, tracer: Tracer | None
) -> tuple[RpcServer | FrontEnds, Starlette, Calls]:
    """What has the gRPC port, this process or others, the HTTP endpoints, and the calls that come there."""
    settings, service, metrics, provider = vision.settings, vision.service, vision.metrics, vision.provider
    max_images = min(settings.max_images_per_request, settings.max_queue_images)
    control = ModelControl(vision.repository)
    own_names = exposure.own_names(settings)
    if settings.workers:
        front_ends = FrontEnds(metrics, provider, settings, control, tracer)
        page = _page(settings, lambda: front_ends.port)
        metrics.publish_calls(None)
        # Front-ends count what is passed on to them, and hold the limits of tokens.
        calls = Calls(metrics, settings, Access(TokenFile.of(settings), among=0), CallRecords(log_share=None))
        exchanges = Exchanges(calls, settings)
        routes = http_app.calls(exchanges, front_ends.relay.methods, max_images)
        check = calls.check if calls.access.guarded else None
        pages = http_app.build(service, front_ends.merged, front_ends.count, routes, check, page, own_names)
        return front_ends, pages, calls
    servicer = VisionServicer(service, provider, RUNTIME_VERSION, settings)
    regions = SharedMemoryRegions() if settings.system_shared_memory == "on" else None
    tensors = InferenceServicer(service, metrics, provider, settings, control, regions=regions)
    records = CallRecords(tracer, settings.access_log_share)
    calls = Calls(metrics, settings, Access(TokenFile.of(settings)), records)
    metrics.publish_calls(calls.in_flight)
    exchanges = Exchanges(calls, settings)
    routes = http_app.calls(exchanges, methods.of(servicer, tensors), max_images)
    check = calls.check if calls.access.guarded else None
    no_room = vision.memory.ceiling.exceeded
    rpc = RpcServer(servicer, tensors, calls, settings, identity=identity, no_room=no_room)
    page = _page(settings, lambda: rpc.port)
    pages = http_app.build(
        service, metrics.registry, calls=routes, check=check, page=page, own_names=own_names
    )
    return rpc, pages, calls


def _page(settings: Settings, grpc_port: Callable[[], int]) -> Facts | None:
    """What the page for browsers is told; None where it is switched off."""
    if settings.ui == "off":
        return None
    return lambda: {
        "grpc_port": grpc_port(),
        "encrypted": bool(settings.tls_certificate),
        "client_certificates": bool(settings.tls_client_ca),
        "tokens": bool(settings.tokens),
    }
