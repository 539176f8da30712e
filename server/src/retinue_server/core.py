"""What answers, without ports: the models, the engine that runs them, and the service that requests are put to."""

import asyncio
import math
import os
from collections.abc import Callable
from contextlib import suppress

import structlog

from retinue_server import __version__, memory_plan, models_source
from retinue_server.batching.engine import Engine
from retinue_server.batching.recovery import Limits
from retinue_server.batching.usage import Usage
from retinue_server.batching.watchdog import Watchdog
from retinue_server.catalog import Catalog
from retinue_server.decode_pool import DecodePool
from retinue_server.healing import Healing
from retinue_server.lifecycle import Repository
from retinue_server.loader import Loader
from retinue_server.machine import chosen_provider, planned
from retinue_server.metrics import Metrics
from retinue_server.publisher import Publisher
from retinue_server.runtime.cache import ModelCache
from retinue_server.runtime.memory import share_heaps
from retinue_server.runtime.providers import RUNTIME_VERSION, Provider, available_cores
from retinue_server.runtime.session import Machine
from retinue_server.runtime.tuning import Tuner
from retinue_server.service import VisionService
from retinue_server.settings import Settings
from retinue_server.workers.backend import SlotPlan

_log = structlog.get_logger(__name__)

# For a batch that hangs and is told to stop.
_LONGEST_GRACE_SECONDS = 5.0


def prepare_process() -> None:
    """Sets up what threads inherit; before there are any."""
    _keep_wakeups_from_interrupting()
    share_heaps(available_cores())


class Core:
    """The models of a folder, with all that it takes to answer requests with them. It belongs to one event loop.

    Args:
        settings: How.
        metrics: Where requests are counted.
        publisher: Tells others of what changes.
        cancelled: Whether to load no more.
        forget: Drops what was counted of a model that is gone, by name and version.

    Attributes:
        settings: Those, with limits that fit the memory there is.
        provider: What runs the networks.
        metrics: As given.
        service: Answers requests, once it is open.
        repository: Owns the models.
        memory: What requests and models may take.

    Raises:
        StartupError: It cannot be as the settings say.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        publisher: Publisher,
        *,
        cancelled: Callable[[], bool],
        forget: Callable[[str, int], None],
    ) -> None:
        self.metrics = metrics
        self.provider = _choose_provider(settings)
        self.memory = memory_plan.plan(settings, self.provider)
        self.settings = settings = self.memory.settings
        self._kept = ModelCache(settings.expanded_cache_folder / "onnxruntime")
        machine = planned(settings, self.provider, self._kept)
        self._decoders = _decoders(settings) if self.provider.on_gpu else None
        self._engine, self._cutter = _engines(machine, settings, publisher.engine_failed)
        self._watchdog = Watchdog(self._engine.watch)
        self._cancelled = cancelled
        folder = models_source.folder(settings, metrics, cancelled=cancelled)
        could_be_loaded = models_source.could_be_loaded(settings, folder)
        self.service = VisionService(self._engine, metrics, self._cutter, could_be_loaded)
        metrics.publish_memory(self.memory.limit)
        metrics.publish_pools(self._pools())
        loader = Loader(
            self._engine,
            machine,
            max_queue_images=settings.max_queue_images,
            decoders=self._decoders,
            tuner=Tuner(
                settings.tune, machine, self._kept, goal_seconds=settings.target_p99_ms / 1000 or math.inf
            ),
            limit=self.memory.limit,
            metrics=metrics,
            slots=_slot_plan(settings),
            healing=Healing(self.memory.limit, _ill_after(settings), publisher.readiness_changed),
        )
        self.repository = Repository(
            folder, loader, settings.model_control, publish=publisher.publish, forget=forget
        )

    def start(self) -> None:
        """Starts what runs networks."""
        for one in {self._engine, self._cutter}:
            one.start()
        self._watchdog.start()

    async def load(self) -> Catalog:
        """Loads what is to be there when requests are taken first.

        Raises:
            StartupError: There is nothing that can be served.
        """
        catalog = await self.repository.start(self.settings.load_models, cancelled=self._cancelled)
        if not self._cancelled():
            self.metrics.publish_models(lambda: self.repository.catalog, self.provider)
        return catalog

    async def stop(self) -> None:
        """Stops what runs networks; what still waits is answered with UNAVAILABLE."""
        await asyncio.to_thread(self._stop)

    async def close(self) -> None:
        """Takes all models away, without waiting for anybody."""
        await self.repository.close()
        if self._decoders is not None:
            self._decoders.close()
        self._kept.close()

    def _stop(self) -> None:
        for one in {self._engine, self._cutter}:
            one.stop()
        self._watchdog.stop()

    def _pools(self) -> dict[str, Callable[[], Usage]]:
        """What the threads do, by the names that metrics give them."""
        pools = {"engine": self._engine.usage}
        if self._cutter is not self._engine:
            pools["cutter"] = self._cutter.usage
        if self._decoders is not None:
            pools["decoders"] = self._decoders.usage
        return pools


def _keep_wakeups_from_interrupting() -> None:
    """Lets a thread that has a request to read wait its turn instead of taking the core from a running network.

    Each such interruption costs the network its caches: with both cores busy, about 3 % of all CPU time. An idle core
    is taken at once all the same. Threads inherit the policy. Source: sched(7), SCHED_BATCH.
    """
    if hasattr(os, "SCHED_BATCH"):
        # A sandbox may forbid it, and everything works without.
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _choose_provider(settings: Settings) -> Provider:
    provider = chosen_provider(settings)
    if provider.fallback_reason:
        _log.info("provider_fallback", provider=provider.name, reason=provider.fallback_reason)
    _log.info("starting", version=__version__, provider=provider.name, onnxruntime=RUNTIME_VERSION)
    return provider


def _engines(machine: Machine, settings: Settings, on_failure: Callable[[], object]) -> tuple[Engine, Engine]:
    """What runs the networks, and what cuts out what was found in images.

    On a CPU that is the same, since both want the cores. In front of a GPU the engine's threads have that to keep busy.
    """
    engine = Engine(machine.threads.instances, on_failure)
    if not machine.provider.on_gpu:
        return engine, engine
    return engine, Engine(settings.decode_threads or available_cores(), on_failure)


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
