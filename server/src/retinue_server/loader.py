"""Loads models from their bundles and unloads them: checked, measured, warmed, and with their memory accounted for."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import structlog
from retinue.v1 import manifest_pb2 as pb

from retinue_server import steps
from retinue_server.batching.batcher import Batcher
from retinue_server.batching.engine import Engine
from retinue_server.bundle.manifest import MANIFEST_FILE
from retinue_server.bundle.repository import BundleFolder
from retinue_server.catalog import Catalog, ServedModel
from retinue_server.decode_pool import DecodePool
from retinue_server.errors import BundleError, StartupError
from retinue_server.healing import Healing
from retinue_server.runtime.memory import MemoryLimit
from retinue_server.runtime.session import Machine, Session
from retinue_server.runtime.tuning import Tuner
from retinue_server.tensor_loader import TensorLoader
from retinue_server.vision_loader import ModelMetrics, VisionLoader, changed, give_back, held_bytes
from retinue_server.workers.backend import SlotPlan

_log = structlog.get_logger(__name__)


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
        healing: How they are healed; None for as is usual.
    """

    def __init__(  # noqa: PLR0913 (what models are made with)
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
        healing: Healing | None = None,
    ) -> None:
        self._machine = machine
        self._metrics = metrics
        self._slots = slots
        healing = healing or Healing(limit)
        self._images = VisionLoader(
            engine, machine, max_queue_images, decoders, tuner, limit, metrics, slots, healing
        )
        self._tensors = TensorLoader(
            engine, machine, max_queue_images, tuner, limit, partial(held_bytes, machine), healing
        )

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
        load = self._load_tensors if manifest.task == pb.TASK_TENSOR else self._images.load
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
        model = self._tensors.load(bundle, manifest, self._metrics.batch_counter(bundle.name, bundle.version))
        if was_changed():
            self.unload(model, timeout_seconds=0)
            raise changed(bundle)
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
            _log.info("model_unloaded", model=model.name, version=model.version)
        give_back()


def refuse(bundle: BundleFolder, error: StartupError) -> BundleError:
    """Logs why a bundle is not served, and says so for callers: which file and field, but not where it lies here."""
    _log.error("model_refused", model=bundle.name, version=bundle.version, reason=error.message)
    folder = str(bundle.path)
    message = error.message.replace(f"{folder}{os.sep}", "").replace(
        folder, f"{bundle.name}/{bundle.version}"
    )
    return BundleError(message, reason=error.reason)
