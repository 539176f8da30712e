"""The bundles that are measured on a GPU, and bare ONNX Runtime sessions of them."""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from retinue.v1 import manifest_pb2 as pb

from benchmarks.machine import ROOT
from retinue_export import assembly, bundle, graph, precision
from retinue_export.catalogue import proof, rows
from retinue_server.bundle import manifest as manifests
from retinue_server.bundle.repository import BundleFolder
from retinue_server.feeds import Feeds
from retinue_server.runtime import contract, cudart, providers
from retinue_server.runtime.providers import Provider, ProviderOptions

RESNET_50 = {"resnet-50-fp32": pb.PRECISION_FP32, "resnet-50-fp16": pb.PRECISION_FP16}
"""Random but live weights, see `retinue_export.catalogue.liveness`: its speed is that of the trained network."""
_SIDE, _CLASSES = 224, 1000
_WARM_RUNS = 3


def make(folder: Path) -> None:
    """Copies the repository's bundles and exports ResNet-50 in both number formats."""
    shutil.copytree(ROOT / "models", folder, dirs_exist_ok=True)
    (row,) = rows.matching(["resnet50"])
    candidate = proof.live(replace(row, side=_SIDE))
    packaging = candidate.packaging
    content = assembly.export(candidate, pb.PRECISION_FP32).content
    for name, number_format in RESNET_50.items():
        manifest = pb.ModelManifest()
        manifest.CopyFrom(candidate.manifest)
        manifest.name = name
        manifest.input.CopyFrom(assembly.image_input(packaging.spec, packaging.normalisation))
        packaging.describe(manifest)
        manifest.labels.extend(f"class {number}" for number in range(_CLASSES))
        manifest.opset = graph.OPSET
        manifest.precision = number_format
        if number_format == pb.PRECISION_FP16:
            content = precision.convert(content, number_format, None, packaging.feeds).content
        bundle.write(folder, manifest, 1, content)


def bare(
    bundle_folder: BundleFolder,
    provider: Provider,
    batch_sizes: Sequence[int],
    seconds: float,
    *,
    resident: bool,
    options: Mapping[str, str] | None = None,
) -> dict[int, float]:
    """Images a second of a loop that does nothing but run a bound session, by batch size.

    Args:
        bundle_folder: The model.
        provider: What runs it, with the server's options.
        batch_sizes: Those to measure.
        seconds: For how long each.
        resident: Whether pixels and answers stay on the device; else they come from the host's memory and go there.
        options: Of the CUDA provider, instead of the server's.
    """
    session = open_bare(bundle_folder, provider, options or {})
    return {size: _bare(session, bundle_folder, provider, size, seconds, resident) for size in batch_sizes}


def _bare(
    session: ort.InferenceSession,
    bundle_folder: BundleFolder,
    provider: Provider,
    size: int,
    seconds: float,
    resident: bool,
) -> float:
    manifest = bundle_folder.read()
    binding = session.io_binding()
    images, outputs = noise(manifest, size), list(contract.outputs(manifest))
    where = memory_name(), provider.devices[0]
    for name, array in Feeds(manifest).typical(size).items():
        binding.bind_cpu_input(name, array)
    if resident:
        binding.bind_ortvalue_input(contract.IMAGES, ort.OrtValue.ortvalue_from_numpy(images, *where))
        for name in outputs:
            binding.bind_output(name, *where)

    def run() -> None:
        if not resident:
            binding.bind_cpu_input(contract.IMAGES, images)
            for name in outputs:
                binding.bind_output(name, "cpu")
        session.run_with_iobinding(binding)
        if not resident:
            binding.copy_outputs_to_cpu()

    for _ in range(_WARM_RUNS):
        run()
    began, runs = time.perf_counter(), 0
    while (took := time.perf_counter() - began) < seconds:
        run()
        runs += 1
    return runs * size / took


def switching(bundle_folder: BundleFolder, provider: Provider, sizes: tuple[int, int]) -> dict[str, float]:
    """What a run takes when the batch size is another than the last, and when it is the same, in milliseconds."""
    manifest = bundle_folder.read()
    session = open_bare(bundle_folder, provider, {})
    names = list(contract.outputs(manifest))

    def run_ms(size: int) -> float:
        fed = {contract.IMAGES: noise(manifest, size), **Feeds(manifest).typical(size)}
        began = time.perf_counter()
        session.run(names, fed)
        return 1000 * (time.perf_counter() - began)

    for size in sizes * 2:
        run_ms(size)
    switched = [run_ms(size) for size in sizes * 3]
    same = [run_ms(sizes[-1]) for _ in range(6)]
    return {"switched_ms": float(np.median(switched)), "same_ms": float(np.median(same))}


def open_bare(
    bundle_folder: BundleFolder, provider: Provider, options: Mapping[str, str]
) -> ort.InferenceSession:
    """A session as the server opens it."""
    half = bundle_folder.read().precision == pb.PRECISION_FP16
    more: dict[str, ProviderOptions] = {provider.name: dict(options)}
    chain = provider.chain_on(provider.devices[0], providers.half_options() if half else {}, more)
    return ort.InferenceSession(
        bundle_folder.model_path, ort.SessionOptions(), providers=chain, enable_fallback=False
    )


def noise(manifest: pb.ModelManifest, size: int) -> npt.NDArray[np.uint8]:
    """Images of a model's input size, uint8 [N,H,W,C]."""
    spec = manifests.input_spec(manifest)
    shape = (size, spec.height, spec.width, spec.channels)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def memory_name() -> str:
    """ONNX Runtime's name of a device's memory."""
    cuda = cudart.load()
    return cuda.memory if cuda is not None else "cuda"


def versions() -> dict[str, Any]:
    """Of what runs the networks."""
    return {"onnxruntime": ort.__version__, "cuda": ort.cuda_version}
