"""The models of a front-end process: they come and go as the engine's process says."""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import replace

from retinue.v1 import manifest_pb2, vision_service_pb2

from retinue_server import interface, postprocess, steps
from retinue_server.batching.engine import Engine
from retinue_server.bundle.manifest import input_spec
from retinue_server.catalog import TASKS, Catalog, Leases, ServedModel, ids_by_label
from retinue_server.departures import LONGEST_LEASE_SECONDS, Departures
from retinue_server.feeds import Feeds
from retinue_server.runtime.memory import MemoryUse
from retinue_server.runtime.profile import Profile
from retinue_server.runtime.session import Threads
from retinue_server.workers.link import EngineLink
from retinue_server.workers.remote import RemoteBatcher
from retinue_server.workers.serving import Served
from retinue_server.workers.slots import Place, SharedMemory


class FrontEndModels:
    """Makes catalogs of what the engine's process tells, and lets go of what is in none any more. Used on the loop.

    Args:
        memory: What is shared with that process.
        link: Leads there.
        engine: Its threads decode images and make results.
        forget: Drops what was counted of a model, by name and version.
        released: Called with the number of a model that no call holds any more, and nothing touches whose slots.
        longest_lease_seconds: How long a model that was taken away waits for the calls that hold it.
    """

    def __init__(
        self,
        memory: SharedMemory,
        link: EngineLink,
        engine: Engine,
        *,
        forget: Callable[[str, int], None],
        released: Callable[[int], None],
        longest_lease_seconds: float = LONGEST_LEASE_SECONDS,
    ) -> None:
        self._memory = memory
        self._link = link
        self._engine = engine
        self._forget = forget
        self._released = released
        self._catalog = Catalog([], {})
        self._models: dict[int, ServedModel] = {}
        # Of each pipeline, the calls that hold it.
        self._pipelines: dict[tuple[str, int], Leases] = {}
        self._departures = Departures(self._close, self._gone, longest_lease_seconds)

    def take(self, served: Served) -> tuple[Catalog, list[ServedModel]]:
        """Makes a catalog of what is served; what the one before had is the same in this one.

        Returns:
            The catalog, and what the one before had that it has not.
        """
        models = {
            place.number: self._models.get(place.number) or self._model(description, place)
            for description, place in zip(served.models, served.places, strict=True)
        }
        for number, model in models.items():
            assert isinstance(model.batcher, RemoteBatcher)
            model.batcher.refusal = served.unready.get(number)
        policies = {model.name: model.serving for model in (*served.models, *served.pipelines)}
        parts = Catalog(models.values(), {}, policies)
        pipelines, leases = [], {}
        for one in served.pipelines:
            key = one.name, one.version
            leases[key] = self._pipelines.get(key) or Leases()
            pipelines.append(steps.detecting(*key, _copied(one.manifest), parts, leases[key]))
        gone = [model for number, model in self._models.items() if number not in models]
        for key in self._pipelines.keys() - leases.keys():
            gone.append(replace(self._catalog.get(*key), leases=self._pipelines[key]))
        self._models, self._pipelines = models, leases
        self._catalog = Catalog([*parts.models, *pipelines], served.failures, policies)
        return self._catalog, gone

    def let_go(self, gone: Collection[ServedModel]) -> None:
        """Begins to take models away that no request finds any more."""
        for model in gone:
            self._departures.add(model)

    def _model(self, description: vision_service_pb2.Model, place: Place) -> ServedModel:
        manifest, execution = _copied(description.manifest), description.execution
        slots = self._memory.map(place)
        batcher = RemoteBatcher(
            place.number,
            slots,
            self._link,
            self._engine,
            spec=input_spec(manifest),
            feeds=Feeds(manifest),
            postprocess=postprocess.for_manifest(manifest),
            name=f"{description.name}/{description.version}",
        )
        memory = execution.memory
        return ServedModel(
            name=description.name,
            version=description.version,
            task=TASKS[manifest.task],
            manifest=manifest,
            class_ids=ids_by_label(manifest.labels),
            interface=interface.of_bundle(manifest, slots.layout.answer_rows),
            batcher=batcher,
            threads=Threads(execution.instances, execution.threads_per_instance),
            profile=Profile(
                tuple(batch.batch_size for batch in execution.batches),
                tuple(batch.batch_us / 1e6 for batch in execution.batches),
                execution.lone_image_us / 1e6,
                execution.alone_on_all_cores,
            ),
            memory=MemoryUse(memory.weights_bytes, memory.arena_bytes, memory.buffers_bytes),
        )

    async def _close(self, model: ServedModel, timeout_seconds: float) -> None:
        if isinstance(model.batcher, RemoteBatcher):
            await asyncio.to_thread(model.batcher.close, timeout_seconds)

    def _gone(self, model: ServedModel) -> None:
        # Before the engine's process hears of it, which then forgets what it was told of these counts.
        if not self._catalog.serves(model.name, model.version):
            self._forget(model.name, model.version)
        if isinstance(model.batcher, RemoteBatcher):
            loop, number = asyncio.get_running_loop(), model.batcher.number
            # The last to touch a slot may be a thread.
            model.batcher.when_unused(lambda: loop.call_soon_threadsafe(self._released, number) and None)


def _copied(manifest: manifest_pb2.ModelManifest) -> manifest_pb2.ModelManifest:
    """One that keeps nothing else in memory of the message that it is part of."""
    copy = manifest_pb2.ModelManifest()
    copy.CopyFrom(manifest)
    return copy
