"""A server whose one model's two versions take turns: `python -m tests.swapping_server MODELS NAME ASIDE SWAPS`.

MODELS/NAME/1 is there, and ASIDE/2. Prints its port, swaps them once a line comes from standard input, and prints its
private bytes after a tenth of all swaps, and after the last.
"""

import asyncio
import gc
import sys
from pathlib import Path

import uvloop

from retinue_server import log
from retinue_server.batching.engine import Engine
from retinue_server.bundle.folder import ModelsFolder
from retinue_server.catalog import Catalog
from retinue_server.lifecycle import Repository
from retinue_server.loader import Loader
from retinue_server.metrics import Metrics
from retinue_server.rpc.calls import Calls
from retinue_server.rpc.inference_servicer import InferenceServicer
from retinue_server.rpc.model_control import ModelControl
from retinue_server.rpc.server import RpcServer
from retinue_server.rpc.servicer import VisionServicer
from retinue_server.runtime import memory
from retinue_server.runtime.cache import ModelCache
from retinue_server.runtime.pools import ThreadPools
from retinue_server.runtime.providers import CPU, RUNTIME_VERSION, Provider
from retinue_server.runtime.session import Machine, Threads
from retinue_server.runtime.tuning import Tuner
from retinue_server.service import VisionService
from retinue_server.settings import Settings

_CORES = 2


async def _swap(repository: Repository, models: Path, name: str, aside: Path, swaps: int) -> None:
    for number in range(1, swaps + 1):
        going, coming = (1, 2) if number % 2 else (2, 1)
        (aside / str(coming)).rename(models / name / str(coming))
        (models / name / str(going)).rename(aside / str(going))
        await repository.load(name)
        assert [model.version for model in repository.catalog.models] == [coming]
        if number in (swaps // 10, swaps):
            gc.collect()
            memory.give_back_freed()
            print(memory.private_bytes(), flush=True)


async def main(models: Path, name: str, aside: Path, swaps: int) -> None:
    """Does it with the parts of a server."""
    log.configure("warning", "json")
    memory.share_heaps(_CORES)
    settings = Settings(grpc_port=0, models=str(models), model_control="explicit")
    kept = ModelCache(aside / ".cache")
    provider = Provider(CPU, "cpu", "", ((CPU, {}),))
    machine = Machine(provider, Threads(_CORES, 1), kept, ThreadPools(_CORES))
    engine, metrics = Engine(_CORES), Metrics()
    service = VisionService(engine, metrics)

    async def publish(catalog: Catalog) -> None:
        service.replace(catalog)
        await rpc.publish(catalog)

    loader = Loader(
        engine,
        machine,
        max_queue_images=1024,
        decoders=None,
        tuner=Tuner("fast", machine, kept),
        limit=memory.process_limit(0),
        metrics=metrics,
    )
    repository = Repository(
        ModelsFolder(models), loader, "explicit", publish=publish, forget=metrics.forget_model
    )
    vision = VisionServicer(service, provider, RUNTIME_VERSION, settings)
    tensors = InferenceServicer(service, metrics, provider, settings, ModelControl(repository))
    rpc = RpcServer(vision, tensors, Calls(metrics, settings), settings)
    engine.start()
    await rpc.start()
    catalog = await repository.start("all", lambda: False)
    service.open(catalog)
    await rpc.open(catalog)
    metrics.publish_models(lambda: repository.catalog, provider)
    print(rpc.port, flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await _swap(repository, models, name, aside, swaps)
    await asyncio.to_thread(sys.stdin.readline)
    service.drain()
    await rpc.finish(10)
    await asyncio.to_thread(engine.stop)
    await rpc.stop()
    await repository.close()
    kept.close()


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])))
