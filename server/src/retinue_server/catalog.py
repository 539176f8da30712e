"""The models that are served: loading them from their bundles, and finding the one a request means."""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import structlog
from retinue.v1 import manifest_pb2 as pb

from retinue_server import postprocess
from retinue_server.batching.batcher import Backend, Batcher
from retinue_server.batching.engine import Engine
from retinue_server.batching.queue import Queue
from retinue_server.bundle.manifest import input_spec
from retinue_server.bundle.repository import BundleFolder
from retinue_server.errors import (
    BundleError,
    InvalidRequestError,
    ModelNotFoundError,
    StartupError,
    WrongTaskError,
)
from retinue_server.feeds import Feeds
from retinue_server.pipeline import Pipeline, together
from retinue_server.results import Task
from retinue_server.runtime.memory import device_memory_used_bytes
from retinue_server.runtime.profile import Profile
from retinue_server.runtime.session import Machine, Session, Threads, explain
from retinue_server.runtime.tuning import Tuner
from retinue_server.workers import backend as slot_backend
from retinue_server.workers.backend import SlotBackend, SlotPlan
from retinue_server.workers.slots import Layout

_log = structlog.get_logger(__name__)

TASKS = {pb.TASK_CLASSIFY: Task.CLASSIFY, pb.TASK_DETECT: Task.DETECT, pb.TASK_SEGMENT: Task.SEGMENT}

# Decoding and resizing a photo of half a megapixel, for the first estimate of a model's cost; measured from then on.
_FIRST_DECODE_SECONDS = 0.002

# A name may have 128 characters, and gRPC takes 8 KiB of trailers, which hold a message twice.
_NAMES_IN_MESSAGES = 10


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that takes requests.

    Attributes:
        name: Its name.
        version: Its version.
        task: What it answers.
        manifest: What its bundle says.
        class_ids: The classes of each label: several may have one name, as "crane" has two in ImageNet.
        batcher: Where its images queue.
        threads: How many batches run at once.
        profile: What it costs here.
        memory_bytes: By how much the process, or the device, grew when it was loaded and warmed.
        layout: Where its images come in slots from front-ends, what these hold.
    """

    name: str
    version: int
    task: Task
    manifest: pb.ModelManifest
    class_ids: dict[str, frozenset[int]]
    batcher: Queue
    threads: Threads
    profile: Profile
    memory_bytes: int
    layout: Layout | None = None


class Catalog:
    """Finds models by name, version and task.

    Attributes:
        models: All of them, by name and then descending version.
        failures: Why bundles that were found are not served, by (name, version).
    """

    def __init__(self, models: Iterable[ServedModel], failures: dict[tuple[str, int], BundleError]) -> None:
        self.models = sorted(models, key=lambda model: (model.name, -model.version))
        self.failures = failures
        self._by_version = {(model.name, model.version): model for model in self.models}
        # Later entries win, and versions descend.
        self._newest = {model.name: model for model in reversed(self.models)}

    def get(self, name: str, version: int = 0) -> ServedModel:
        """Finds a model.

        Args:
            name: Its name.
            version: Its version, 0 for the newest.

        Raises:
            ModelNotFoundError: It is not served.
        """
        model = self._by_version.get((name, version)) if version else self._newest.get(name)
        if model is None:
            raise ModelNotFoundError(self._why_missing(name, version))
        return model

    def for_task(self, task: Task, name: str, version: int = 0) -> ServedModel:
        """Finds the model that a request for `task` means; an empty name means the task's only model.

        Raises:
            InvalidRequestError: The name is empty and the task has several models, or none.
            ModelNotFoundError: No such model or version.
            WrongTaskError: The model answers another task.
        """
        if not name:
            names = self._names(task)
            if len(names) != 1:
                raise InvalidRequestError(
                    f"name a model: the server has {_listed(names)} for {task}.", reason="MODEL_NOT_NAMED"
                )
            name = names[0]
        model = self.get(name, version)
        if model.task is not task:
            raise WrongTaskError(
                f"model '{name}' serves {model.task}, not {task}; models for {task}: {_listed(self._names(task))}."
            )
        return model

    def _names(self, task: Task) -> list[str]:
        return [name for name, model in sorted(self._newest.items()) if model.task is task]

    def _why_missing(self, name: str, version: int) -> str:
        for (failed, failed_version), error in self.failures.items():
            if failed == name and version in (0, failed_version):
                return (
                    f"model '{name}' version {failed_version} was found but cannot be served: {error.message}"
                )
        versions = [str(model.version) for model in self.models if model.name == name]
        if versions:
            return f"model '{name}' has no version {version}; versions served: {_listed(versions)}."
        # The name is the caller's: cut what is long, so that an answer is never larger than its question deserves.
        shown = name if len(name) <= 128 else f"{name[:125]}..."
        return f"there is no model '{shown}'; models served: {_listed(sorted(self._newest))}."


class Loader:
    """Turns bundles into served models on one engine.

    Args:
        engine: Whose threads run them.
        machine: What runs the networks.
        max_queue_images: Images that may wait for one model.
        decoders: Pool that decodes in front of a GPU; None on a CPU.
        tuner: Measures the models.
        on_batch: Called with (name, version, batch size) of every batch that answered an image.
        slots: Where images come in slots from front-ends, how many of these there are; else None.
    """

    def __init__(
        self,
        engine: Engine,
        machine: Machine,
        *,
        max_queue_images: int,
        decoders: ThreadPoolExecutor | None,
        tuner: Tuner,
        on_batch: Callable[[str, int, int], None],
        slots: SlotPlan | None = None,
    ) -> None:
        self._engine = engine
        self._machine = machine
        self._max_queue_images = max_queue_images
        self._decoders = decoders
        self._tuner = tuner
        self._on_batch = on_batch
        self._slots = slots

    def load_all(
        self, bundles: Sequence[BundleFolder], cancelled: Callable[[], bool] = lambda: False
    ) -> Catalog:
        """Loads every bundle that holds; those that do not are logged and named in the catalog's failures.

        Args:
            bundles: What to load.
            cancelled: Asked before each; true ends the loading with what there is.

        Raises:
            StartupError: None holds.
        """
        models: list[ServedModel] = []
        failures: dict[tuple[str, int], BundleError] = {}
        reasons: list[str] = []
        for bundle in bundles:
            if cancelled():
                return Catalog(models, failures)
            try:
                models.append(self.load(bundle))
            except BundleError as error:
                reasons.append(error.message)
                # Callers are told which file and field, but not where on this machine it lies.
                failures[bundle.name, bundle.version] = BundleError(
                    error.message.replace(f"{bundle.path}{os.sep}", "")
                )
                _log.error("model_refused", model=bundle.name, version=bundle.version, reason=error.message)
        if not models:
            raise StartupError(f"none of the bundles can be served: {' '.join(reasons)}")
        return Catalog(models, failures)

    def load(self, bundle: BundleFolder) -> ServedModel:
        """Checks, loads, measures and warms one bundle.

        Raises:
            BundleError: It does not hold what it promises.
        """
        began = time.perf_counter()
        memory_before = self._memory_bytes()
        manifest = bundle.read()
        session = Session(bundle.model_path, manifest, self._machine)
        spec = input_spec(manifest)
        shape = (spec.height, spec.width, spec.channels)
        feeds = Feeds(manifest)
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
            session.plan_lone_runs(on_all_cores=profile.alone_on_all_cores)
            if self._machine.provider.on_gpu:
                # A GPU's libraries take their time over each size anew for what only some requests ask for.
                for size in profile.batch_sizes if session.extra_outputs else ():
                    session.run(
                        np.zeros((size, *shape), np.uint8), feeds.typical(size), session.extra_outputs
                    )
            session.check_answers(np.zeros((2, *shape), np.uint8), feeds.typical(2))
            session.shrink_memory(np.zeros((1, *shape), np.uint8), feeds.typical(1))
        except BundleError:
            raise
        except Exception as error:
            # A graph that loads may still fail when it runs; ONNX Runtime's exceptions share only Exception.
            raise BundleError(
                f"{bundle.model_path} cannot be run: {explain(error)}; export the bundle again."
            ) from error
        name = f"{bundle.name}/{bundle.version}"
        layout = None
        backend: Backend[Any, Any]
        if self._slots is None:
            backend = Pipeline(
                session,
                spec,
                feeds,
                postprocess.for_manifest(manifest),
                batch_sizes=profile.batch_sizes,
                decoders=self._decoders,
                name=name,
            )
        else:
            answers = session.run(np.zeros((1, *shape), np.uint8), feeds.typical(1), session.extra_outputs)
            layout = self._slots.layout(manifest, answers)
            backend = SlotBackend(
                session,
                layout,
                batch_sizes=profile.batch_sizes,
                fill_up=self._machine.provider.on_gpu,
            )
        batcher: Batcher[Any, Any] = Batcher(
            backend,
            self._engine,
            capacity=self._max_queue_images,
            item_seconds=1 / profile.images_per_second + (0 if layout else _FIRST_DECODE_SECONDS),
            runs_with=together if layout is None else slot_backend.together,
            name=name,
            on_batch=lambda size: self._on_batch(bundle.name, bundle.version, size),
        )
        model = ServedModel(
            name=bundle.name,
            version=bundle.version,
            task=TASKS[manifest.task],
            manifest=manifest,
            class_ids=ids_by_label(manifest.labels),
            batcher=batcher,
            threads=self._machine.threads,
            profile=profile,
            memory_bytes=max(0, self._memory_bytes() - memory_before),
            layout=layout,
        )
        _log.info(
            "model_loaded",
            model=model.name,
            version=model.version,
            task=str(model.task),
            provider=self._machine.provider.name,
            max_batch_size=profile.max_batch_size,
            images_per_second=round(profile.images_per_second, 1),
            alone_on_all_cores=profile.alone_on_all_cores,
            memory_bytes=model.memory_bytes,
            seconds=round(time.perf_counter() - began, 3),
        )
        return model

    def _memory_bytes(self) -> int:
        if self._machine.provider.on_gpu:
            return device_memory_used_bytes()
        return int(psutil.Process(os.getpid()).memory_info().rss)


def ids_by_label(labels: Iterable[str]) -> dict[str, frozenset[int]]:
    """The class ids of each label, which several classes may share."""
    ids: dict[str, frozenset[int]] = {}
    for class_id, label in enumerate(labels):
        ids[label] = ids.get(label, frozenset()) | {class_id}
    return ids


def _listed(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > _NAMES_IN_MESSAGES else ""
    return ", ".join(f"'{name}'" for name in names[:_NAMES_IN_MESSAGES]) + more or "none"
