"""Loads ONNX models that have no manifest: for tensors only, checked, measured, and with their memory accounted for."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import structlog
from retinue.v1 import manifest_pb2 as pb

from retinue_server.batching.batcher import Batcher
from retinue_server.batching.engine import Engine
from retinue_server.bundle.repository import BundleFolder
from retinue_server.catalog import ServedModel
from retinue_server.errors import BundleError
from retinue_server.healing import Healing
from retinue_server.interface import Interface
from retinue_server.results import Task
from retinue_server.runtime.memory import MemoryLimit, MemoryUse
from retinue_server.runtime.profile import Profile, fastest_seconds
from retinue_server.runtime.session import Machine, explain
from retinue_server.runtime.tensor_session import TensorSession
from retinue_server.runtime.tuning import Tuner
from retinue_server.tensor_backend import TensorBackend, together

_log = structlog.get_logger(__name__)

# Of a network that runs on nothing that can be made up: a guess, until requests have shown what they take.
_UNKNOWN = Profile((1,), (0.01,), lone_seconds=0.0)
_NOTHING = np.zeros((1, 1, 1, 1), np.uint8)
_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class TensorLoader:
    """Turns ONNX models into served models.

    Attributes:
        engine: Whose threads run them.
        machine: What runs the networks.
        max_queue_images: Rows that may wait for one model.
        tuner: Measures the models.
        limit: How much memory they may take.
        held_bytes: Tells what the process, or the device, holds now.
        healing: How they are healed.
    """

    engine: Engine
    machine: Machine
    max_queue_images: int
    tuner: Tuner
    limit: MemoryLimit
    held_bytes: Callable[[], int]
    healing: Healing

    def load(
        self, bundle: BundleFolder, manifest: pb.ModelManifest, on_batch: Callable[[int, float], None]
    ) -> ServedModel:
        """Checks, loads, measures and warms one model.

        Args:
            bundle: Where it lies.
            manifest: What was made up of it.
            on_batch: Called with the size of each batch that ran, and the seconds it took.

        Raises:
            BundleError: It cannot be served, or does not fit into the memory.
        """
        path = bundle.model_path
        arena = self.machine.tensor_arena
        # In front of a GPU they have arenas of their own there.
        shared_bytes = 0 if arena is None or self.machine.provider.on_gpu else arena.limit_bytes
        least = MemoryUse(path.stat().st_size, shared_bytes=shared_bytes)
        self.limit.check(str(path), least, measured=False)
        held_bytes = self.held_bytes()
        session = TensorSession(path, self.machine)
        try:
            session.try_out()
            profile = self._profile(bundle, manifest.sha256, session)
            weights_bytes = session.weights_bytes
            arena_bytes = 0 if shared_bytes else max(0, self.held_bytes() - held_bytes - weights_bytes)
            use = MemoryUse(weights_bytes, arena_bytes, shared_bytes=shared_bytes)
            self.limit.check(str(path), use, measured=True)
        except BaseException:
            session.close()
            raise
        name = f"{bundle.name}/{bundle.version}"
        batcher: Batcher[Any, Any] = Batcher(
            TensorBackend(session, profile.max_batch_size, name),
            self.engine,
            capacity=self.max_queue_images,
            item_seconds=1 / profile.images_per_second,
            runs_with=together,
            name=name,
            on_batch=on_batch,
        )

        def open_backend() -> TensorBackend:
            another = TensorSession(path, self.machine)
            another.try_out()
            return TensorBackend(another, profile.max_batch_size, name)

        self.healing.begin(batcher, bundle, manifest, use, open_backend)
        _log.info(
            "model_loaded",
            model=bundle.name,
            version=bundle.version,
            task=str(Task.TENSOR),
            provider=self.machine.provider.name,
            batched=session.batched,
            max_batch_size=profile.max_batch_size,
        )
        return ServedModel(
            name=bundle.name,
            version=bundle.version,
            task=Task.TENSOR,
            manifest=manifest,
            class_ids={},
            interface=Interface(
                {one.name: one for one in session.inputs},
                {one.name: one for one in session.outputs},
                session.batched,
            ),
            batcher=batcher,
            threads=self.machine.threads,
            profile=profile,
            memory=use,
        )

    def _profile(self, bundle: BundleFolder, sha256: str, session: TensorSession) -> Profile:
        """What it costs, and how many rows are worth running together.

        Raises:
            BundleError: It ran once, and does not now.
        """
        if not session.runs_on_made_up:
            return _UNKNOWN
        # Made once: what it takes to make them is no time of the network's.
        typical = cache(session.typical)
        try:
            if not session.batched:
                seconds = fastest_seconds(lambda _: session.run(typical(1)), _NOTHING, _ROUNDS)
                return Profile((1,), (seconds,), lone_seconds=seconds)
            return self.tuner.profile(
                sha256,
                # Of the images that the measurement makes up only their number matters here.
                (1, 1, 1),
                lambda images: session.run(typical(len(images))),
                None,
                on_refusal=lambda size, error: _log.warning(
                    "batch_size_refused",
                    model=bundle.name,
                    version=bundle.version,
                    batch_size=size,
                    reason=explain(error),
                ),
            )
        except Exception as error:
            raise BundleError(
                f"{bundle.model_path} cannot be run: {explain(error)}; copy it again."
            ) from error
