"""How fast a graph runs here, measured by what the server measures with."""

import platform
import tempfile
from pathlib import Path

import torch
from retinue.v1 import manifest_pb2 as pb

from retinue_export.inputs import Uint8
from retinue_export.parity import Feeds
from retinue_server.bundle import manifest as manifest_file
from retinue_server.runtime import profile, providers
from retinue_server.runtime.session import Session, Threads

_SECONDS = 0.5
"""After so long no larger batch is tried, see `profile.measure`."""
_ROUNDS = 3
"""The fastest of so many measurements counts, since other work on the machine only ever makes one slower."""
_THREADS = Threads(1, 1)
"""One of the server's instances, which have one thread each."""


def choose(requested: providers.Requested) -> providers.Provider:
    """Resolves a provider, see `retinue_server.runtime.providers.choose`.

    Raises:
        StartupError: a GPU was asked for and cannot be had.
    """
    return providers.choose(
        requested, gpu_device=0, gpu_memory_limit_bytes=0, cache_folder=Path("~/.cache/retinue")
    )


def measure(
    content: bytes, manifest: pb.ModelManifest, feeds: Feeds, provider: providers.Provider
) -> pb.SpeedMeasurement:
    """Runs a graph at growing batch sizes.

    Args:
        content: model.onnx.
        manifest: its task, input and labels; its precision is noted.
        feeds: what it takes beside images.
        provider: what runs it.

    Raises:
        BundleError: the server would refuse the graph.
    """
    spec = manifest_file.input_spec(manifest)
    shape = (spec.height, spec.width, spec.channels)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / manifest_file.MODEL_FILE
        path.write_bytes(content)
        session = Session(path, manifest, provider, _THREADS)

    def run(images: Uint8) -> None:
        session.run(images, feeds(images))

    measured = [
        profile.measure(run, shape, on_gpu=provider.on_gpu, budget_seconds=_SECONDS) for _ in range(_ROUNDS)
    ]
    best = max(measured, key=lambda one: one.images_per_second)
    return pb.SpeedMeasurement(
        precision=manifest.precision,
        provider=provider.name,
        device=_gpu(provider.device) if provider.on_gpu else f"{_processor()}, one thread",
        batch_size=best.max_batch_size,
        images_per_second=best.images_per_second,
    )


def _gpu(number: int) -> str:
    return torch.cuda.get_device_name(number) if torch.cuda.is_available() else f"CUDA device {number}"


def _processor() -> str:
    """The processor's name. Source: Linux, proc(5)."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
