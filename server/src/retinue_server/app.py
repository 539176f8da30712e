"""The server as a whole: builds the parts, opens when the models are loaded, drains when told to stop."""

import asyncio
import math
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import psutil
import structlog
from starlette.applications import Starlette

from retinue_server import __version__, exposure, memory_plan, models_source
from retinue_server.batching.engine import Engine
from retinue_server.batching.recovery import Limits
from retinue_server.batching.usage import Usage
from retinue_server.batching.watchdog import Watchdog
from retinue_server.catalog import Catalog
from retinue_server.connections import ConnectionLimits, allow_files
from retinue_server.decode_pool import DecodePool
from retinue_server.errors import StartupError
from retinue_server.front_ends import FrontEnds
from retinue_server.healing import Healing
from retinue_server.http import app as http_app
from retinue_server.http.exchange import Exchanges
from retinue_server.http.page import Facts
from retinue_server.http.server import HttpServer
from retinue_server.lifecycle import Repository
from retinue_server.loader import Loader
from retinue_server.machine import chosen_provider, planned
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
from retinue_server.runtime.cache import ModelCache
from retinue_server.runtime.memory import share_heaps
from retinue_server.runtime.providers import RUNTIME_VERSION, Provider, available_cores
from retinue_server.runtime.session import Machine
from retinue_server.runtime.tuning import Tuner
from retinue_server.service import VisionService
from retinue_server.settings import Settings
from retinue_server.shared_memory import SharedMemoryRegions
from retinue_server.tls import IdentityFiles
from retinue_server.tokens import TokenFile
from retinue_server.tracing.tracer import LAST_SPANS_SECONDS, Tracer
from retinue_server.workers.backend import SlotPlan

_log = structlog.get_logger(__name__)

# For a batch that hangs and is told to stop.
_LONGEST_GRACE_SECONDS = 5.0


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
    _prepare_process()
    stop = _stop_signalled(asyncio.get_running_loop())

    identity = _checked_identity(settings)
    tracer = Tracer.of(settings)
    provider = _choose_provider(settings)
    settings, limit, ceiling = memory_plan.plan(settings, provider)
    kept = ModelCache(settings.expanded_cache_folder / "onnxruntime")
    machine = planned(settings, provider, kept)
    decoders = _decoders(settings) if provider.on_gpu else None

    publisher = Publisher(asyncio.get_running_loop())
    metrics = _metrics(settings, tracer)
    engine, cutter = _engines(machine, settings, publisher.engine_failed)
    metrics.publish_memory(limit)
    watchdog = Watchdog(engine.watch)
    folder = models_source.folder(settings, metrics, cancelled=stop.is_set)
    service = VisionService(engine, metrics, cutter, models_source.could_be_loaded(settings, folder))
    metrics.publish_server(RUNTIME_VERSION, lambda: service.ready, identity)
    metrics.publish_pools(_pools(engine, cutter, decoders))
    repository = Repository(
        folder,
        Loader(
            engine,
            machine,
            max_queue_images=settings.max_queue_images,
            decoders=decoders,
            tuner=Tuner(settings.tune, machine, kept, goal_seconds=settings.target_p99_ms / 1000 or math.inf),
            limit=limit,
            metrics=metrics,
            slots=_slot_plan(settings),
            healing=Healing(limit, _ill_after(settings), publisher.readiness_changed),
        ),
        settings.model_control,
        publish=publisher.publish,
        forget=lambda name, version: _forget(name, version, metrics, rpc),
    )
    rpc, pages, calls = _plan_front(
        service, repository, metrics, provider, settings, identity, tracer, ceiling.exceeded
    )
    publisher.attach(service, rpc)
    http = HttpServer(pages, settings.host, settings.http_port, identity, ConnectionLimits.of(settings))
    await rpc.start()
    http.start()
    _start(engine, cutter, watchdog)
    try:
        catalog = await repository.start(settings.load_models, cancelled=stop.is_set)
        if not stop.is_set():
            metrics.publish_models(lambda: repository.catalog, provider)
            await _open(service, rpc, catalog, stop)
            if not stop.is_set():
                on_ready(_ready(settings, rpc.port, http.port, catalog, provider))
                repository.follow()
            await stop.wait()
        _log.info("draining", grace_seconds=settings.drain_seconds)
    finally:
        service.drain()
        await rpc.close()
        # With front-ends, what they have answered may still be on its way over HTTP.
        await asyncio.gather(rpc.finish(settings.drain_seconds), calls.finished(settings.drain_seconds))
        # What still waits is answered with UNAVAILABLE before the connections close.
        await asyncio.to_thread(_stop, engine, cutter, watchdog)
        await rpc.stop()
        # What runs has had its time.
        await repository.close()
        if decoders is not None:
            decoders.close()
        await http.stop()
        await _close(kept, tracer)
    _log.info("stopped")


def _metrics(settings: Settings, tracer: Tracer | None) -> Metrics:
    metrics = Metrics(triton_names=settings.triton_metrics == "on")
    metrics.publish_traces(tracer)
    return metrics


async def _close(kept: ModelCache, tracer: Tracer | None) -> None:
    kept.close()
    if tracer is not None:
        await asyncio.to_thread(tracer.close, LAST_SPANS_SECONDS)


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


def _prepare_process() -> None:
    _keep_wakeups_from_interrupting()
    allow_files()
    share_heaps(available_cores())


def _keep_wakeups_from_interrupting() -> None:
    """Lets a thread that has a request to read wait its turn instead of taking the core from a running network.

    Each such interruption costs the network its caches: with both cores busy, about 3 % of all CPU time. An idle core
    is taken at once all the same. Threads inherit the policy. Source: sched(7), SCHED_BATCH.
    """
    if hasattr(os, "SCHED_BATCH"):
        # A sandbox may forbid it, and everything works without.
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _process_age_seconds() -> float:
    return time.time() - psutil.Process().create_time()


def _choose_provider(settings: Settings) -> Provider:
    provider = chosen_provider(settings)
    if provider.fallback_reason:
        _log.info("provider_fallback", provider=provider.name, reason=provider.fallback_reason)
    _log.info("starting", version=__version__, provider=provider.name, onnxruntime=RUNTIME_VERSION)
    return provider


def _plan_front(
    service: VisionService,
    repository: Repository,
    metrics: Metrics,
    provider: Provider,
    settings: Settings,
    identity: IdentityFiles | None,
    tracer: Tracer | None,
    no_room: Callable[[], bool],
) -> tuple[RpcServer | FrontEnds, Starlette, Calls]:
    """What has the gRPC port, this process or others, the HTTP endpoints, and the calls that come there."""
    max_images = min(settings.max_images_per_request, settings.max_queue_images)
    control = ModelControl(repository)
    if settings.workers:
        front_ends = FrontEnds(metrics, provider, settings, control, tracer)
        page = _page(settings, lambda: front_ends.port)
        metrics.publish_calls(None)
        # Front-ends count what is passed on to them, and hold the limits of tokens.
        calls = Calls(metrics, settings, Access(TokenFile.of(settings), among=0), CallRecords(log_share=None))
        exchanges = Exchanges(calls, settings)
        routes = http_app.calls(exchanges, front_ends.relay.methods, max_images)
        check = calls.check if calls.access.guarded else None
        pages = http_app.build(service, front_ends.merged, front_ends.count, routes, check, page)
        return front_ends, pages, calls
    vision = VisionServicer(service, provider, RUNTIME_VERSION, settings)
    regions = SharedMemoryRegions() if settings.system_shared_memory == "on" else None
    tensors = InferenceServicer(service, metrics, provider, settings, control, regions=regions)
    records = CallRecords(tracer, settings.access_log_share)
    calls = Calls(metrics, settings, Access(TokenFile.of(settings)), records)
    metrics.publish_calls(calls.in_flight)
    exchanges = Exchanges(calls, settings)
    routes = http_app.calls(exchanges, methods.of(vision, tensors), max_images)
    check = calls.check if calls.access.guarded else None
    rpc = RpcServer(vision, tensors, calls, settings, identity=identity, no_room=no_room)
    page = _page(settings, lambda: rpc.port)
    pages = http_app.build(service, metrics.registry, calls=routes, check=check, page=page)
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


def _engines(machine: Machine, settings: Settings, on_failure: Callable[[], object]) -> tuple[Engine, Engine]:
    """What runs the networks, and what cuts out what was found in images.

    On a CPU that is the same, since both want the cores. In front of a GPU the engine's threads have that to keep busy.
    """
    engine = Engine(machine.threads.instances, on_failure)
    if not machine.provider.on_gpu:
        return engine, engine
    return engine, Engine(settings.decode_threads or available_cores(), on_failure)


def _pools(engine: Engine, cutter: Engine, decoders: DecodePool | None) -> dict[str, Callable[[], Usage]]:
    """What the threads do, by the names that metrics give them."""
    pools = {"engine": engine.usage}
    if cutter is not engine:
        pools["cutter"] = cutter.usage
    if decoders is not None:
        pools["decoders"] = decoders.usage
    return pools


def _start(engine: Engine, cutter: Engine, watchdog: Watchdog) -> None:
    for one in {engine, cutter}:
        one.start()
    watchdog.start()


def _stop(engine: Engine, cutter: Engine, watchdog: Watchdog) -> None:
    for one in {engine, cutter}:
        one.stop()
    watchdog.stop()


def _ill_after(settings: Settings) -> Limits:
    """When a model is ill: one that may not take long need not be given long to stop."""
    seconds = settings.batch_timeout_seconds
    return Limits(batch_seconds=seconds, grace_seconds=min(seconds, _LONGEST_GRACE_SECONDS))


def _slot_plan(settings: Settings) -> SlotPlan | None:
    if not settings.workers:
        return None
    return SlotPlan(settings.max_queue_images, settings.max_images_per_request, settings.workers)


def _decoders(settings: Settings) -> DecodePool:
    return DecodePool(settings.decode_threads or available_cores())
