"""Exported classifiers on an NVIDIA GPU: images a second in FP32 and FP16, beside the roofline of the same run.

The roofline of a network is the session with input and outputs left on the device; the server's session copies a batch
there and the answers back. Weights are random but live.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch
from retinue.v1 import manifest_pb2 as pb

from benchmarks.quantisation import fastest
from retinue_export import assembly, inputs, parity, precision, speed
from retinue_export.catalogue import proof, rows
from retinue_export.parity import Runner
from retinue_server.runtime.providers import Provider

_NETWORKS = ("mobilenet_v2", "resnet50", "vit_b_16")
_BATCHES = (1, 8, 64)
_SIDE = 224


def run(rounds: int = 20) -> dict[str, Any]:
    """Measures each network in both number formats in turn.

    Raises:
        StartupError: There is no GPU that ONNX Runtime can use.
    """
    provider = speed.choose("cuda")
    return {
        "gpu": torch.cuda.get_device_name(provider.device) if torch.cuda.is_available() else "",
        "onnxruntime": ort.__version__,
        "torch": torch.__version__,
        "networks": [measured for name in _NETWORKS for measured in _network(name, provider, rounds)],
    }


def _network(name: str, provider: Provider, rounds: int) -> list[dict[str, Any]]:
    (row,) = rows.matching([name])
    candidate = proof.live(replace(row, side=_SIDE))
    packaging = candidate.packaging
    content = assembly.export(candidate, pb.PRECISION_FP32).content
    half = precision.convert(content, pb.PRECISION_FP16, None, packaging.feeds).content
    sessions = {"fp32": _session(content, provider), "fp16": _session(half, provider)}
    photos = inputs.photos(packaging.spec)
    measured = []
    for batch in _BATCHES:
        images = np.ascontiguousarray(np.resize(photos, (batch, *photos.shape[1:])))
        runs: dict[str, Runner] = {}
        for kind, session in sessions.items():
            runs[f"{kind}_session"] = _copying(session)
            runs[f"{kind}_device"] = _resident(session, images, provider)
        seconds = fastest(runs, images, rounds)
        measured.append(
            {"network": name, "batch": batch, **{kind: batch / took for kind, took in seconds.items()}}
        )
        print(measured[-1], flush=True)
    return measured


def _session(content: bytes, provider: Provider) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(content, options, providers=list(provider.chain))


def _copying(session: ort.InferenceSession) -> Runner:
    """Runs as the server does: pixels come from the host's memory, answers go there."""

    def run(images: npt.NDArray[np.uint8]) -> parity.Outputs:
        binding = session.io_binding()
        binding.bind_cpu_input("images", images)
        binding.bind_output("probabilities", "cpu")
        session.run_with_iobinding(binding)
        return {"probabilities": binding.copy_outputs_to_cpu()[0]}

    return run


def _resident(session: ort.InferenceSession, images: npt.NDArray[np.uint8], provider: Provider) -> Runner:
    """Runs on pixels that lie on the device already, and leaves the answers there."""
    binding = session.io_binding()
    binding.bind_ortvalue_input("images", ort.OrtValue.ortvalue_from_numpy(images, "cuda", provider.device))
    binding.bind_output("probabilities", "cuda", provider.device)

    def run(_images: npt.NDArray[np.uint8]) -> parity.Outputs:
        binding.synchronize_inputs()
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return {}

    return run


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        f"{result['gpu']}, ONNX Runtime {result['onnxruntime']}, exported by PyTorch {result['torch']}.",
        "",
        "| network | batch | FP32 images/s | of the device's | FP16 images/s | of the device's | FP16 over FP32 |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['network']} | {row['batch']} "
        f"| {row['fp32_session']:.0f} | {row['fp32_session'] / row['fp32_device']:.2f} "
        f"| {row['fp16_session']:.0f} | {row['fp16_session'] / row['fp16_device']:.2f} "
        f"| {row['fp16_session'] / row['fp32_session']:.2f} |"
        for row in result["networks"]
    ]
    return "\n".join(lines)
