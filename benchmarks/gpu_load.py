"""The server's own engine and pipeline under load, in this process, and what they answer beside the CPU.

`python -m benchmarks.gpu_load MODELS BUNDLE PROVIDER INSTANCES CUDA_GRAPHS SECONDS` prints what `serve` gives as JSON:
where a GPU is left in a bad state, that ends with the process.
"""

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from retinue.v1 import manifest_pb2 as pb

from benchmarks import photos
from retinue_server.batching.batcher import Batcher
from retinue_server.batching.engine import Engine
from retinue_server.bundle import manifest as manifests
from retinue_server.bundle.repository import BundleFolder, scan
from retinue_server.catalog import ServedModel
from retinue_server.loader import Loader
from retinue_server.metrics import Metrics
from retinue_server.results import (
    Answer,
    Classification,
    ClassifyOptions,
    DetectionList,
    DetectOptions,
    MaskFormat,
    Options,
    Segmentation,
    SegmentOptions,
    Work,
)
from retinue_server.runtime.cache import ModelCache
from retinue_server.runtime.memory import MemoryLimit
from retinue_server.runtime.providers import CPU, Provider, available_cores, choose
from retinue_server.runtime.session import Machine, Threads
from retinue_server.runtime.tuning import Tune, Tuner
from retinue_server.vision.decode import open_encoded, open_raw
from retinue_server.vision.readers import ChannelOrder

_CALLERS, _IMAGES_A_REQUEST = 24, 32
_QUEUE = 4096
_MAX_PIXELS = 50_000_000
_ENOUGH_BYTES = 1 << 30
_ON_CPU = Provider(CPU, "cpu", "", ((CPU, {}),))

CudaGraphs = Literal["auto", "off"]


def serve(
    bundle: BundleFolder, provider: Provider, instances: int, cuda_graphs: CudaGraphs, seconds: float
) -> dict[str, Any]:
    """Loads a model, asks it for its fastest, and compares what it says of photos with what it says on a CPU.

    Args:
        bundle: The model.
        provider: What runs it.
        instances: Batches at once.
        cuda_graphs: The server's setting.
        seconds: For how long it is asked for each kind of image.
    """
    with running(bundle, provider, instances, cuda_graphs) as served:
        of_pixels, of_files = raw(served.model), jpeg(served.model)
        measured = {
            "instances": instances,
            "cuda_graphs": cuda_graphs,
            "load_seconds": served.load_seconds,
            "batch_sizes": served.model.profile.batch_sizes,
            "raw": rate(served.model, of_pixels, seconds),
            "jpeg": rate(served.model, of_files, seconds),
            "raw_alone_ms": alone_ms(served.model, of_pixels),
        }
        answered = answers(served.model)
    with running(bundle, _ON_CPU, available_cores(), tune="off") as served:
        expected = answers(served.model)
    return {**measured, "apart_from_cpu": apart(expected, answered)}


@dataclass(frozen=True)
class Served:
    """A model on the server's engine.

    Attributes:
        model: The model.
        load_seconds: What it took to load, measure and prepare it.
    """

    model: ServedModel
    load_seconds: float


@contextmanager
def running(
    bundle: BundleFolder,
    provider: Provider,
    instances: int,
    cuda_graphs: CudaGraphs = "off",
    tune: Tune = "fast",
) -> Iterator[Served]:
    """The server without gRPC.

    Args:
        bundle: The model.
        provider: What runs them.
        instances: Batches at once.
        cuda_graphs: The server's setting.
        tune: Likewise.
    """
    with tempfile.TemporaryDirectory() as cache, ThreadPoolExecutor(available_cores(), "decode") as pool:
        kept = ModelCache(Path(cache))
        machine = Machine(provider, Threads(instances, 1), kept, cuda_graphs=cuda_graphs)
        engine = Engine(instances)
        loader = Loader(
            engine,
            machine,
            max_queue_images=_QUEUE,
            decoders=pool if provider.on_gpu else None,
            tuner=Tuner(tune, machine, kept),
            limit=MemoryLimit(),
            metrics=Metrics(),
        )
        began = time.perf_counter()
        model = loader.load(bundle)
        load_seconds = time.perf_counter() - began
        engine.start()
        try:
            yield Served(model, load_seconds)
        finally:
            engine.stop()
            loader.unload(model)
            kept.close()


def raw(model: ServedModel) -> Callable[[], Work]:
    """Makes works of pixels of the network's own size."""
    spec = manifests.input_spec(model.manifest)
    shape = (spec.height, spec.width, spec.channels)
    data = np.random.default_rng(0).integers(0, 256, shape, np.uint8).tobytes()
    order: ChannelOrder = "GRAY" if spec.channels == 1 else "RGB"
    options = _options(model)
    return lambda: Work(open_raw(data, spec.height, spec.width, order, max_pixels=_MAX_PIXELS), options)


def jpeg(model: ServedModel) -> Callable[[], Work]:
    """Makes works of photos as people send them."""
    files, options = photos.jpegs(), _options(model)
    number = 0

    def make() -> Work:
        nonlocal number
        number += 1
        return Work(open_encoded(files[number % len(files)], max_pixels=_MAX_PIXELS), options)

    return make


def rate(model: ServedModel, make: Callable[[], Work], seconds: float) -> float:
    """Images a second of many callers, each of whom asks with many images again and again."""
    return asyncio.run(_rate(model.batcher, make, seconds))


async def _rate(batcher: Batcher[Work, Answer], make: Callable[[], Work], seconds: float) -> float:
    answered_at: list[float] = []
    began = time.perf_counter()
    end = began + seconds * 4 / 3

    async def call(number: int) -> None:
        while not answered_at or time.perf_counter() < end:
            works = [make() for _ in range(_IMAGES_A_REQUEST)]
            for outcome in await batcher.submit(works, caller=number):
                _answer(outcome.value)
            answered_at.append(time.perf_counter())

    await asyncio.gather(*map(call, range(_CALLERS)))
    # The first third, in which the queue fills, does not count, nor what was still under way at the end.
    counted = [at for at in answered_at if began + seconds / 3 <= at < end] or answered_at
    return _IMAGES_A_REQUEST * len(counted) / max(seconds, counted[-1] - began)


def alone_ms(model: ServedModel, make: Callable[[], Work], rounds: int = 30) -> float:
    """What one image takes that comes alone, the median."""

    async def ask() -> float:
        took = []
        for _ in range(rounds):
            began = time.perf_counter()
            await model.batcher.submit([make()])
            took.append(time.perf_counter() - began)
        return 1000 * float(np.median(took))

    return asyncio.run(ask())


def answers(model: ServedModel) -> list[Answer]:
    """What a model says of the photos, in batches of all sizes up to their number."""
    make = jpeg(model)

    async def ask() -> list[Answer]:
        outcomes = []
        for size in range(1, len(photos.jpegs()) + 1):
            outcomes += await model.batcher.submit([make() for _ in range(size)])
        return [_answer(outcome.value) for outcome in outcomes]

    return asyncio.run(ask())


def _answer(value: Any) -> Answer:
    if isinstance(value, Answer):
        return value
    raise value


def apart(expected: Sequence[Answer], actual: Sequence[Answer]) -> float:
    """How far apart two models' answers to the same images are.

    Returns:
        The largest difference of a probability, the share of pixels with another class, or of detections that the other
        does not have.
    """
    pairs = zip(expected, actual, strict=True)
    return max(_apart(first.result, second.result) for first, second in pairs)


def _apart(first: Any, second: Any) -> float:
    if isinstance(first, Classification):
        dense = np.zeros((2, 1 + max(*first.class_ids, *second.class_ids)))
        for row, result in zip(dense, (first, second), strict=True):
            row[result.class_ids] = result.scores
        return float(np.abs(dense[0] - dense[1]).max())
    if isinstance(first, Segmentation):
        assert isinstance(first.mask, bytes)
        assert isinstance(second.mask, bytes)
        classes = np.frombuffer(first.mask, np.uint8) != np.frombuffer(second.mask, np.uint8)
        return float(np.mean(classes))
    # It brings PyTorch along, which few need.
    from retinue_export import parity  # noqa: PLC0415

    return parity.disagreement(_outputs(first), _outputs(second), overlap=0.9, score_distance=0.02)


def _outputs(found: DetectionList) -> dict[str, Any]:
    return {
        "boxes": found.boxes[np.newaxis],
        "scores": found.scores[np.newaxis],
        "classes": found.class_ids[np.newaxis],
    }


def _options(model: ServedModel) -> Options:
    manifest = model.manifest
    if manifest.task == pb.TASK_CLASSIFY:
        return ClassifyOptions(
            top_k=min(5, len(manifest.labels)), min_score=0, max_picture_bytes=_ENOUGH_BYTES
        )
    if manifest.task == pb.TASK_DETECT:
        detect = manifest.detect
        return DetectOptions(
            score_threshold=detect.default_score_threshold,
            max_detections=detect.max_detections,
            class_ids=None,
            iou_threshold=detect.nms_iou_threshold,
            max_picture_bytes=_ENOUGH_BYTES,
        )
    return SegmentOptions(
        mask_format=MaskFormat.RAW, original_size=False, class_ids=None, max_picture_bytes=_ENOUGH_BYTES
    )


def main(models: str, name: str, provider: str, instances: str, cuda_graphs: str, seconds: str) -> None:
    """See the module's docstring."""
    chosen = choose(
        cast(Literal["cpu", "cuda"], provider),
        gpu_devices="0",
        gpu_memory_limit_bytes=0,
        cache_folder=Path(tempfile.gettempdir()),
    )
    (bundle,) = (one for one in scan(Path(models)) if one.name == name)
    print(json.dumps(serve(bundle, chosen, int(instances), cast(CudaGraphs, cuda_graphs), float(seconds))))


if __name__ == "__main__":
    main(*sys.argv[1:])
