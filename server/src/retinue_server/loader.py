"""Loads models from their bundles and unloads them: checked, measured, warmed, and with their memory accounted for."""

import gc
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import structlog
from retinue.v1 import manifest_pb2 as pb

from retinue_server import interface, postprocess, steps
from retinue_server.batching.batcher import Backend, Batcher, Plan
from retinue_server.batching.engine import Engine
from retinue_server.bundle.manifest import MANIFEST_FILE, input_spec
from retinue_server.bundle.repository import BundleFolder
from retinue_server.catalog import TASKS, Catalog, ServedModel, ids_by_label
from retinue_server.decode_pool import DecodePool
from retinue_server.errors import BundleError, StartupError
from retinue_server.feeds import Feeds
from retinue_server.pipeline import Pipeline, together
from retinue_server.runtime import memory
from retinue_server.runtime.memory import MemoryLimit, MemoryUse
from retinue_server.runtime.profile import Profile
from retinue_server.runtime.providers import available_cores
from retinue_server.runtime.session import Machine, Session, Threads, explain
from retinue_server.runtime.tuning import Tuner
from retinue_server.tensor_loader import TensorLoader
from retinue_server.workers import backend as slot_backend
from retinue_server.workers.backend import SlotBackend, SlotPlan
from retinue_server.workers.slots import Layout

_log = structlog.get_logger(__name__)

# Decoding and resizing a photo of half a megapixel, for the first estimate of a model's cost; measured from then on.
_FIRST_DECODE_SECONDS = 0.002


class ModelMetrics(Protocol):
    """What counts what models do."""

    def batch_counter(self, model: str, version: int) -> Callable[[int, float], None]:
        """What counts a model's batches that answered an image, by their size and the seconds they took."""
        ...


class Loader:
    """Turns bundles into served models on one engine, and takes them away again.

    Args:
        engine: Whose threads run them.
        machine: What runs the networks.
        max_queue_images: Images that may wait for one model.
        decoders: Pool that decodes in front of a GPU; None on a CPU.
        tuner: Measures the models.
        limit: How much memory they may take.
        metrics: Where batches are counted.
        slots: Where images come in slots from front-ends, how many of these there are; else None.
    """

    def __init__(
        self,
        engine: Engine,
        machine: Machine,
        *,
        max_queue_images: int,
        decoders: DecodePool | None,
        tuner: Tuner,
        limit: MemoryLimit,
        metrics: ModelMetrics,
        slots: SlotPlan | None = None,
    ) -> None:
        self._engine = engine
        self._machine = machine
        self._max_queue_images = max_queue_images
        self._decoders = decoders
        self._tuner = tuner
        self._limit = limit
        self._metrics = metrics
        self._slots = slots

    def load_all(
        self,
        bundles: Sequence[BundleFolder],
        cancelled: Callable[[], bool] = lambda: False,
        *,
        least: int = 1,
        refused: Mapping[tuple[str, int], BundleError] | None = None,
    ) -> Catalog:
        """Loads every bundle that holds and fits; the others are logged and named in the catalog's failures.

        Pipelines are only read, and do not count.

        Args:
            bundles: What to load.
            cancelled: Asked before each; true ends the loading with what there is.
            least: So many must be served.
            refused: Why others are not to be loaded, by name and version.

        Raises:
            StartupError: Fewer can be.
        """
        models: list[ServedModel] = []
        failures = dict(refused or {})
        reasons = list(
            dict.fromkeys(f"model '{name}': {error.message}" for (name, _), error in failures.items())
        )
        for bundle in bundles:
            if cancelled():
                return Catalog(models, failures)
            try:
                models.append(self.load(bundle))
            except BundleError as error:
                reasons.append(error.message)
                failures[bundle.name, bundle.version] = refuse(bundle, error)
        networks = sum(not model.manifest.HasField("pipeline") for model in models)
        if networks < least and not cancelled():
            raise StartupError(f"none of the bundles can be served: {' '.join(reasons)}")
        return Catalog(models, failures)

    def load(self, bundle: BundleFolder) -> ServedModel:
        """Checks, loads, measures and warms one bundle.

        Raises:
            BundleError: It does not hold what it promises, or does not fit into the memory.
        """
        state = bundle.state()
        manifest = bundle.read()
        if manifest.HasField("pipeline"):
            return self._declare(bundle, manifest)
        load = self._load_tensors if manifest.task == pb.TASK_TENSOR else self._load
        try:
            return load(bundle, manifest, lambda: bundle.state() != state)
        except BundleError:
            if bundle.state() != state:
                # What was kept by the hash of one file may have been made of the next one.
                Session.forget_kept(manifest, self._machine)
            raise

    def _declare(self, bundle: BundleFolder, manifest: pb.ModelManifest) -> ServedModel:
        if self._slots is not None and manifest.task != pb.TASK_DETECT:
            raise BundleError(
                f"{bundle.path / MANIFEST_FILE} declares a pipeline of tensors, and --workers serves detecting ones "
                "only; start the server without."
            )
        return steps.declared(bundle, manifest)

    def _load_tensors(
        self, bundle: BundleFolder, manifest: pb.ModelManifest, was_changed: Callable[[], bool]
    ) -> ServedModel:
        if self._slots is not None:
            raise BundleError(
                f"{bundle.model_path} has no {MANIFEST_FILE}, and --workers serves bundles only; start the server "
                "without, or wrap the model with retinue-export adopt."
            )
        loader = TensorLoader(
            self._engine, self._machine, self._max_queue_images, self._tuner, self._limit, self._held_bytes
        )
        model = loader.load(bundle, manifest, self._metrics.batch_counter(bundle.name, bundle.version))
        if was_changed():
            self.unload(model, timeout_seconds=0)
            raise _changed(bundle)
        return model

    def _load(
        self, bundle: BundleFolder, manifest: pb.ModelManifest, was_changed: Callable[[], bool]
    ) -> ServedModel:
        began = time.perf_counter()
        spec = input_spec(manifest)
        image_bytes = spec.height * spec.width * spec.channels
        weights_bytes = Session.expected_weights_bytes(bundle.model_path, manifest, self._machine)
        least = MemoryUse(weights_bytes, buffers_bytes=image_bytes * self._engine.instances)
        self._limit.check(str(bundle.model_path), least, measured=False)

        with bundle.graph(manifest) as graph:
            held_bytes = self._held_bytes()
            session = Session(bundle.model_path, manifest, self._machine, graph)
            try:
                profile, arena_bytes = self._measure(bundle, manifest, session, held_bytes)
                if was_changed():
                    raise _changed(bundle)
                rows = profile.max_batch_size * self._threads(profile).instances
                buffers_bytes = rows * (image_bytes + session.answer_bytes)
                layout = None
                if self._slots is not None:
                    layout = self._slots.layout(manifest, session.answer_rows)
                    buffers_bytes += self._slots.workers * layout.size_bytes
                use = MemoryUse(session.weights_bytes, arena_bytes, buffers_bytes)
                self._limit.check(str(bundle.model_path), use, measured=True)
            except BaseException:
                session.close()
                _give_back()
                raise
        model = self._serve(bundle, manifest, session, profile, use, layout)
        self._limit.take(use)
        _log.info(
            "model_loaded",
            model=model.name,
            version=model.version,
            task=str(model.task),
            provider=self._machine.provider.name,
            max_batch_size=profile.max_batch_size,
            images_per_second=round(profile.images_per_second, 1),
            alone_on_all_cores=profile.alone_on_all_cores,
            weights_bytes=use.weights_bytes,
            arena_bytes=use.arena_bytes,
            buffers_bytes=use.buffers_bytes,
            seconds=round(time.perf_counter() - began, 3),
        )
        return model

    def unload(self, *models: ServedModel, timeout_seconds: float = 60.0) -> None:
        """Takes models away that no new request finds; their memory goes back to the system.

        What waits for one is refused, and what of it runs is finished.

        Args:
            models: Which.
            timeout_seconds: How long to wait for what of one runs; a batch that hangs keeps what it needs.
        """
        for model in models:
            if isinstance(model.batcher, Batcher):
                model.batcher.close(timeout_seconds)
            self._limit.give(model.memory)
            _log.info("model_unloaded", model=model.name, version=model.version)
        _give_back()

    def _threads(self, profile: Profile) -> Threads:
        usual = self._machine.threads
        return Threads(
            profile.instances or usual.instances,
            available_cores() if profile.all_cores else usual.per_instance,
        )

    def _measure(
        self, bundle: BundleFolder, manifest: pb.ModelManifest, session: Session, held_bytes: int
    ) -> tuple[Profile, int]:
        """Finds out how to run a model, makes it ready, and tells how much its arenas hold at most.

        Args:
            bundle: The model's.
            manifest: Likewise.
            session: Just opened.
            held_bytes: What was held before.

        Raises:
            BundleError: It cannot be run, or does not answer what its manifest says.
        """
        spec = input_spec(manifest)
        shape = (spec.height, spec.width, spec.channels)
        feeds = Feeds(manifest)
        on_gpu = self._machine.provider.on_gpu
        # On a CPU weights are mapped, or there by now, and so is what is loaded with the first model only.
        opened_bytes = held_bytes + session.weights_bytes if on_gpu else self._held_bytes()
        try:
            profile = self._tuner.profile(
                manifest.sha256,
                shape,
                lambda images: session.run(images, feeds.typical(len(images))),
                (lambda image: session.run(image, feeds.typical(1), alone=True))
                if session.can_run_alone
                else None,
                on_refusal=lambda size, error: _log.warning(
                    "batch_size_refused",
                    model=bundle.name,
                    version=bundle.version,
                    batch_size=size,
                    reason=explain(error),
                ),
            )
            session.plan_lone_runs(on_all_cores=profile.alone_on_all_cores or profile.all_cores)
            session.check_answers(np.zeros((2, *shape), np.uint8), feeds.typical(2))
            session.shrink_memory(np.zeros((1, *shape), np.uint8), feeds.typical(1))
            if on_gpu:
                sizes = session.prepare(profile.batch_sizes, feeds.typical)
                profile = replace(profile, batch_sizes=sizes)
                return profile, max(0, self._held_bytes() - opened_bytes)

            def arena_bytes() -> int:
                images = np.random.default_rng(0).integers(0, 256, (profile.max_batch_size, *shape), np.uint8)
                self._fill_arenas(session, profile, feeds, images)
                filled_bytes = self._held_bytes()
                session.shrink_memory(images[:1], feeds.typical(1))
                return max(0, filled_bytes - opened_bytes)

            return profile, self._tuner.arena_bytes(manifest.sha256, profile, arena_bytes)
        except BundleError:
            raise
        except Exception as error:
            # A graph that loads may still fail when it runs; ONNX Runtime's exceptions share only Exception.
            raise BundleError(
                f"{bundle.model_path} cannot be run: {explain(error)}; export the bundle again."
            ) from error

    def _fill_arenas(
        self, session: Session, profile: Profile, feeds: Feeds, images: npt.NDArray[np.uint8]
    ) -> None:
        """Runs as many of the largest batches at once as ever will; ONNX Runtime keeps what that takes."""
        at_once = self._threads(profile).instances
        start = threading.Barrier(at_once)

        def run(_: int) -> None:
            start.wait()
            session.run(images, feeds.typical(len(images)), alone=profile.all_cores)
            if session.extra_outputs:
                session.run(images, feeds.typical(len(images)), session.extra_outputs)

        with ThreadPoolExecutor(at_once) as threads:
            list(threads.map(run, range(at_once)))
        session.run(images[:1], feeds.typical(1), alone=True)

    def _serve(
        self,
        bundle: BundleFolder,
        manifest: pb.ModelManifest,
        session: Session,
        profile: Profile,
        use: MemoryUse,
        layout: Layout | None,
    ) -> ServedModel:
        name = f"{bundle.name}/{bundle.version}"
        spec, feeds = input_spec(manifest), Feeds(manifest)
        backend: Backend[Any, Any]
        if layout is None:
            backend = Pipeline(
                session,
                spec,
                feeds,
                postprocess.for_manifest(manifest),
                batch_sizes=profile.batch_sizes,
                decoders=self._decoders,
                new_slab=session.new_slab,
                name=name,
            )
        else:
            backend = SlotBackend(
                session,
                layout,
                batch_sizes=profile.batch_sizes,
                fill_up=self._machine.provider.on_gpu,
                new_slab=session.new_slab,
            )
        batcher: Batcher[Any, Any] = Batcher(
            backend,
            self._engine,
            capacity=self._max_queue_images,
            item_seconds=1 / profile.images_per_second + (0 if layout else _FIRST_DECODE_SECONDS),
            runs_with=together if layout is None else slot_backend.together,
            plan=Plan(profile.instances, profile.all_cores),
            name=name,
            on_batch=self._metrics.batch_counter(bundle.name, bundle.version),
        )
        return ServedModel(
            name=bundle.name,
            version=bundle.version,
            task=TASKS[manifest.task],
            manifest=manifest,
            class_ids=ids_by_label(manifest.labels),
            interface=interface.of_bundle(manifest, session.answer_rows),
            batcher=batcher,
            threads=self._threads(profile),
            profile=profile,
            memory=use,
            layout=layout,
        )

    def _held_bytes(self) -> int:
        """What the process, or the device, holds now, without what was freed."""
        if self._machine.provider.on_gpu:
            return memory.device_memory_used_bytes()
        memory.give_back_freed()
        return memory.private_bytes()


def refuse(bundle: BundleFolder, error: StartupError) -> BundleError:
    """Logs why a bundle is not served, and says so for callers: which file and field, but not where it lies here."""
    _log.error("model_refused", model=bundle.name, version=bundle.version, reason=error.message)
    folder = str(bundle.path)
    message = error.message.replace(f"{folder}{os.sep}", "").replace(
        folder, f"{bundle.name}/{bundle.version}"
    )
    return BundleError(message, reason=error.reason)


def _changed(bundle: BundleFolder) -> BundleError:
    return BundleError(
        f"{bundle.path} was changed while it was loaded; put a bundle there by renaming its folder, and leave it as it "
        "is.",
        reason="BUNDLE_CHANGED",
    )


def _give_back() -> None:
    """Gives the memory of what was dropped back to the system, what only refers to itself included."""
    gc.collect()
    memory.give_back_freed()
