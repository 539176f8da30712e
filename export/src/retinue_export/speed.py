"""How fast a graph runs here, measured by what the server measures with."""

import platform
import tempfile
from functools import cache
from pathlib import Path
from typing import Literal

import onnxruntime
import torch
from retinue.v1 import manifest_pb2 as pb

from retinue_export.errors import ExportError
from retinue_export.inputs import Uint8
from retinue_export.parity import Feeds
from retinue_server.bundle import manifest as manifest_file
from retinue_server.errors import StartupError
from retinue_server.runtime import profile, providers
from retinue_server.runtime.session import Machine, Session, Threads, explain

_SECONDS = 0.5
"""After so long no larger batch is tried, see `profile.measure`."""
_ROUNDS = 3
"""The fastest of so many measurements counts, since other work on the machine only ever makes one slower."""
_THREADS = Threads(1, 1)
"""One of the server's instances, which have one thread each."""


@cache
def choose(requested: Literal["cpu", "cuda"]) -> providers.Provider:
    """Resolves a provider, see `retinue_server.runtime.providers.choose`; a GPU is tried out once only.

    Raises:
        ExportError: a GPU was asked for and cannot be had.
    """
    try:
        return providers.choose(
            requested, gpu_devices="0", gpu_memory_limit_bytes=0, cache_folder=Path("~/.cache/retinue")
        )
    except StartupError as error:
        why = (
            "the driver, or a library that ONNX Runtime needs for it, is missing or too old"
            if providers.CUDA in onnxruntime.get_available_providers()
            else "the installed ONNX Runtime has none; install retinue-export[gpu] instead of retinue-export[cpu]"
        )
        raise ExportError(
            f"--provider {requested} cannot run here: {why}. With --provider cpu speed is measured on the CPU."
        ) from error


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
        ExportError: the provider cannot run the graph, or the server would refuse it.
    """
    spec = manifest_file.input_spec(manifest)
    shape = (spec.height, spec.width, spec.channels)
    try:
        session = _opened(content, manifest, provider)

        def run(images: Uint8) -> None:
            session.run(images, feeds(images))

        measured = [
            profile.measure(run, shape, on_gpu=provider.on_gpu, budget_seconds=_SECONDS)
            for _ in range(_ROUNDS)
        ]
    except Exception as error:  # ONNX Runtime's exceptions share no other base
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        raise ExportError(f"{provider.name} cannot run the network: {explain(cause)}.") from error
    best = max(measured, key=lambda one: one.images_per_second)
    return pb.SpeedMeasurement(
        precision=manifest.precision,
        provider=provider.name,
        device=_gpu(provider.devices[0]) if provider.on_gpu else f"{_processor()}, one thread",
        batch_size=best.max_batch_size,
        images_per_second=best.images_per_second,
    )


def _opened(content: bytes, manifest: pb.ModelManifest, provider: providers.Provider) -> Session:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / manifest_file.MODEL_FILE
        path.write_bytes(content)
        return Session(path, manifest, Machine(provider, _THREADS))


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
