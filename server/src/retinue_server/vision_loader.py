"""Loads bundles that take images: checked, measured, warmed, and with their memory accounted for."""

import gc
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import structlog
from retinue.v1 import manifest_pb2 as pb

from retinue_server import interface, postprocess
from retinue_server.batching.backend import Backend, Plan
from retinue_server.batching.batcher import Batcher
from retinue_server.batching.engine import Engine
from retinue_server.bundle.manifest import input_spec
from retinue_server.bundle.repository import BundleFolder
from retinue_server.catalog import TASKS, ServedModel, ids_by_label
from retinue_server.decode_pool import DecodePool
from retinue_server.errors import BundleError
from retinue_server.feeds import Feeds
from retinue_server.healing import Healing
from retinue_server.pipeline import Pipeline, together
from retinue_server.runtime import memory
from retinue_server.runtime.memory import MemoryLimit, MemoryUse
from retinue_server.runtime.profile import Profile
from retinue_server.runtime.providers import available_cores
from retinue_server.runtime.session import Machine, Session, Threads, explain
from retinue_server.runtime.tuning import Tuner
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


@dataclass(frozen=True, slots=True)
class VisionLoader:
    """Turns bundles into served models.

    Attributes:
        engine: Whose threads run them.
        machine: What runs the networks.
        max_queue_images: Images that may wait for one model.
        decoders: Pool that decodes in front of a GPU; None on a CPU.
        tuner: Measures the models.
        limit: How much memory they may take.
        metrics: Where batches are counted.
        slots: Where images come in slots from front-ends, how many of these there are; else None.
        healing: How they are healed.
    """

    engine: Engine
    machine: Machine
    max_queue_images: int
    decoders: DecodePool | None
    tuner: Tuner
    limit: MemoryLimit
    metrics: ModelMetrics
    slots: SlotPlan | None
    healing: Healing

    def load(
        self, bundle: BundleFolder, manifest: pb.ModelManifest, was_changed: Callable[[], bool]
    ) -> ServedModel:
        """Checks, loads, measures and warms one bundle.

        Args:
            bundle: Where it lies.
            manifest: What it says.
            was_changed: Whether it is another one by now.

        Raises:
            BundleError: It does not hold what it promises, or does not fit into the memory.
        """
        began = time.perf_counter()
        spec = input_spec(manifest)
        image_bytes = spec.height * spec.width * spec.channels
        weights_bytes = Session.expected_weights_bytes(bundle.model_path, manifest, self.machine)
        least = MemoryUse(weights_bytes, buffers_bytes=image_bytes * self.engine.instances)
        self.limit.check(str(bundle.model_path), least, measured=False)

        with bundle.graph(manifest) as graph:
            before_bytes = held_bytes(self.machine)
            session = Session(bundle.model_path, manifest, self.machine, graph)
            try:
                profile, arena_bytes = self._measure(bundle, manifest, session, before_bytes)
                if was_changed():
                    raise changed(bundle)
                rows = profile.max_batch_size * self._threads(profile).instances
                buffers_bytes = rows * (image_bytes + session.answer_bytes)
                layout = None
                if self.slots is not None:
                    layout = self.slots.layout(manifest, session.answer_rows)
                    buffers_bytes += self.slots.workers * layout.size_bytes
                use = MemoryUse(session.weights_bytes, arena_bytes, buffers_bytes)
                self.limit.check(str(bundle.model_path), use, measured=True)
            except BaseException:
                session.close()
                give_back()
                raise
        model = self._serve(bundle, manifest, session, profile, use, layout)
        _log.info(
            "model_loaded",
            model=model.name,
            version=model.version,
            task=str(model.task),
            provider=self.machine.provider.name,
            max_batch_size=profile.max_batch_size,
            images_per_second=round(profile.images_per_second, 1),
            alone_on_all_cores=profile.alone_on_all_cores,
            weights_bytes=use.weights_bytes,
            arena_bytes=use.arena_bytes,
            buffers_bytes=use.buffers_bytes,
            seconds=round(time.perf_counter() - began, 3),
        )
        return model

    def _threads(self, profile: Profile) -> Threads:
        usual = self.machine.threads
        return Threads(
            profile.instances or usual.instances,
            available_cores() if profile.all_cores else usual.per_instance,
        )

    def _measure(
        self, bundle: BundleFolder, manifest: pb.ModelManifest, session: Session, before_bytes: int
    ) -> tuple[Profile, int]:
        """Finds out how to run a model, makes it ready, and tells how much its arenas hold at most.

        Args:
            bundle: The model's.
            manifest: Likewise.
            session: Just opened.
            before_bytes: What was held before.

        Raises:
            BundleError: It cannot be run, or does not answer what its manifest says.
        """
        spec = input_spec(manifest)
        shape = (spec.height, spec.width, spec.channels)
        feeds = Feeds(manifest)
        on_gpu = self.machine.provider.on_gpu
        # On a CPU weights are mapped, or there by now, and so is what is loaded with the first model only.
        opened_bytes = before_bytes + session.weights_bytes if on_gpu else held_bytes(self.machine)
        try:
            profile = self.tuner.profile(
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
            profile = self._make_ready(manifest, session, profile)
            if on_gpu:
                return profile, max(0, held_bytes(self.machine) - opened_bytes)

            def arena_bytes() -> int:
                images = np.random.default_rng(0).integers(0, 256, (profile.max_batch_size, *shape), np.uint8)
                self._fill_arenas(session, profile, feeds, images)
                filled_bytes = held_bytes(self.machine)
                session.shrink_memory(images[:1], feeds.typical(1))
                return max(0, filled_bytes - opened_bytes)

            return profile, self.tuner.arena_bytes(manifest.sha256, profile, arena_bytes)
        except BundleError:
            raise
        except Exception as error:
            # A graph that loads may still fail when it runs; ONNX Runtime's exceptions share only Exception.
            raise BundleError(
                f"{bundle.model_path} cannot be run: {explain(error)}; export the bundle again."
            ) from error

    def _make_ready(self, manifest: pb.ModelManifest, session: Session, profile: Profile) -> Profile:
        """Runs a session that is to be run as a profile says; returns how it may be.

        Raises:
            Exception: It cannot be run.
        """
        spec, feeds = input_spec(manifest), Feeds(manifest)
        shape = (spec.height, spec.width, spec.channels)
        session.plan_lone_runs(on_all_cores=profile.alone_on_all_cores or profile.all_cores)
        session.check_answers(np.zeros((2, *shape), np.uint8), feeds.typical(2))
        session.shrink_memory(np.zeros((1, *shape), np.uint8), feeds.typical(1))
        return profile.only(session.prepare(profile.batch_sizes, feeds.typical))

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
        backend = self._backend(name, manifest, session, profile, layout)
        batcher: Batcher[Any, Any] = Batcher(
            backend,
            self.engine,
            capacity=self.max_queue_images,
            item_seconds=1 / profile.images_per_second + (0 if layout else _FIRST_DECODE_SECONDS),
            runs_with=together if layout is None else slot_backend.together,
            plan=Plan(profile.instances, profile.all_cores),
            name=name,
            on_batch=self.metrics.batch_counter(bundle.name, bundle.version),
        )
        open_backend = partial(self._open_backend, bundle, manifest, profile, layout)
        self.healing.begin(batcher, bundle, manifest, use, open_backend)
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

    def _open_backend(
        self, bundle: BundleFolder, manifest: pb.ModelManifest, profile: Profile, layout: Layout | None
    ) -> Backend[Any, Any]:
        """Opens a model again that was measured before."""
        with bundle.graph(manifest) as graph:
            session = Session(bundle.model_path, manifest, self.machine, graph)
            try:
                profile = self._make_ready(manifest, session, profile)
            except BaseException:
                session.close()
                raise
        return self._backend(f"{bundle.name}/{bundle.version}", manifest, session, profile, layout)

    def _backend(
        self,
        name: str,
        manifest: pb.ModelManifest,
        session: Session,
        profile: Profile,
        layout: Layout | None,
    ) -> Backend[Any, Any]:
        feeds = Feeds(manifest)
        if layout is None:
            return Pipeline(
                session,
                input_spec(manifest),
                feeds,
                postprocess.for_manifest(manifest),
                batch_sizes=profile.batch_sizes,
                decoders=self.decoders,
                new_slab=session.new_slab,
                name=name,
            )
        return SlotBackend(
            session,
            layout,
            batch_sizes=profile.batch_sizes,
            typical=feeds.typical,
            fill_up=self.machine.provider.on_gpu,
            new_slab=session.new_slab,
        )


def held_bytes(machine: Machine) -> int:
    """What the process, or the device, holds now, without what was freed."""
    if machine.provider.on_gpu:
        return memory.device_memory_used_bytes()
    memory.give_back_freed()
    return memory.private_bytes()


def give_back() -> None:
    """Gives the memory of what was dropped back to the system, what only refers to itself included."""
    gc.collect()
    memory.give_back_freed()


def changed(bundle: BundleFolder) -> BundleError:
    """Why a bundle is not served that is not what it was a moment ago."""
    return BundleError(
        f"{bundle.path} was changed while it was loaded; put a bundle there by renaming its folder, and leave it as it "
        "is.",
        reason="BUNDLE_CHANGED",
    )
