"""Has models that are served healed: opened anew from their bundles, with their memory accounted for."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from retinue.v1 import manifest_pb2 as pb

from retinue_server.batching.backend import Backend
from retinue_server.batching.batcher import Batcher
from retinue_server.batching.recovery import Limits, Recovery, Remedy
from retinue_server.bundle.repository import BundleFolder
from retinue_server.errors import BundleError
from retinue_server.runtime import device_failures, memory
from retinue_server.runtime.memory import MemoryLimit, MemoryUse


@dataclass(frozen=True, slots=True)
class Healing:
    """How models are healed.

    Attributes:
        memory_limit: How much memory models may take.
        limits: When one is ill.
        on_change: Called by any thread whenever one begins or ceases to take requests.
    """

    memory_limit: MemoryLimit
    limits: Limits = field(default_factory=Limits)
    on_change: Callable[[], object] = lambda: None

    def begin(
        self,
        batcher: Batcher[Any, Any],
        bundle: BundleFolder,
        manifest: pb.ModelManifest,
        use: MemoryUse,
        open_backend: Callable[[], Backend[Any, Any]],
    ) -> None:
        """Counts a model's memory, until its backend is closed, and has it looked after.

        Args:
            batcher: The model's queue, whose backends have a `probe`.
            bundle: Where it lies.
            manifest: What it was when it was loaded.
            use: What it takes.
            open_backend: Opens a backend of it, which has run.
        """

        def reopen() -> Backend[Any, Any]:
            if bundle.read() != manifest:
                raise BundleError(f"{bundle.path} is another bundle by now.", reason="BUNDLE_CHANGED")
            memory.give_back_freed()
            # What hangs in the former one keeps that, too.
            self.memory_limit.take_checked(str(bundle.model_path), use)
            try:
                return open_backend()
            except Exception as error:
                self.memory_limit.give(use)
                raise device_failures.known(error) from error

        self.memory_limit.take(use)
        remedy = Remedy(
            lambda backend, stop: backend.probe(stop), reopen, partial(self.memory_limit.give, use)
        )
        name = f"{bundle.name}/{bundle.version}"
        batcher.heal_by(Recovery(remedy, self.limits, name=name, on_change=self.on_change))
