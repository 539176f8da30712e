"""Loads and unloads a folder's models again and again in this process: `python -m tests.load_cycles MODELS CYCLES`.

Prints a line for each cycle: the bytes of resident memory when all were loaded, and after they were unloaded.
"""

import sys
from pathlib import Path

import psutil

from retinue_server import log
from retinue_server.batching.engine import Engine
from retinue_server.bundle.repository import scan
from retinue_server.loader import Loader
from retinue_server.metrics import Metrics
from retinue_server.runtime import memory
from retinue_server.runtime.cache import ModelCache
from retinue_server.runtime.pools import ThreadPools
from retinue_server.runtime.providers import CPU, Provider
from retinue_server.runtime.session import Machine, Threads
from retinue_server.runtime.tuning import Tuner

_CORES = 2


def _resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


def main(models: Path, cycles: int) -> None:
    """Does it as a server does."""
    log.configure("error", "json")
    memory.share_heaps(_CORES)
    kept = ModelCache(models / ".cache")
    provider = Provider(CPU, "cpu", "", ((CPU, {}),))
    machine = Machine(provider, Threads(_CORES, 1), kept, ThreadPools(_CORES))
    engine, metrics = Engine(_CORES), Metrics()
    engine.start()
    loader = Loader(
        engine,
        machine,
        max_queue_images=64,
        decoders=None,
        tuner=Tuner("fast", machine, kept),
        limit=memory.process_limit(0),
        metrics=metrics,
    )
    for _ in range(cycles):
        catalog = loader.load_all(scan(models))
        loaded_bytes = _resident_bytes()
        loader.unload(*catalog.models)
        for model in catalog.models:
            metrics.forget_model(model.name, model.version)
        del catalog, model
        print(loaded_bytes, _resident_bytes(), flush=True)
    engine.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
