"""Exported graphs on an NVIDIA GPU: whether they answer as on the CPU, what FP16 changes, and how fast each is.

Weights are random but live, so no quality is measured. The roofline of a network is the bare session with input and
outputs left on the device; what the server's session does beside it is copy a batch there and the answers back.
"""

import json
import multiprocessing
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch
from retinue.v1 import manifest_pb2 as pb

from benchmarks.quantisation import fastest
from retinue_export import agreement, assembly, inputs, parity, precision, speed
from retinue_export.catalogue import proof, rows
from retinue_export.errors import ExportError
from retinue_export.packaging import Packaging
from retinue_export.parity import Runner
from retinue_server.runtime.providers import Provider

BATCHES = (1, 8, 32, 128)
_TIMED = ("mobilenet_v2", "resnet50", "vit_b_16")
_COMPARED = (
    *("lenet_5", "alexnet", "zfnet", "vgg16", "googlenet", "resnet18", "densenet121", "mobilenet_v3_small"),
    *(
        "shufflenet_v2_x1_0",
        "efficientnet_b0",
        "convnext_tiny",
        "swin_t",
        "legacy_xception",
        "legacy_seresnet50",
    ),
    *("overfeat", "rcnn", "fast_rcnn", "rfcn", "yolo_v1", "yolo_v3", "fashion_detector"),
    *("ssd300_vgg16", "ssdlite320_mobilenet_v3_large", "retinanet_resnet50_fpn", "fcos_resnet50_fpn"),
    *("fasterrcnn_resnet50_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn", "maskrcnn_resnet50_fpn"),
    *("keypointrcnn_resnet50_fpn", "fcn_resnet50", "deeplabv3_resnet50", "lraspp_mobilenet_v3_large"),
    *("fcn_32s", "fcn_8s", "deconvnet", "fashion_cnn", "fashion_segmenter"),
)
_SIDE = 224
_PROCESSES, _THREADS = 5, 3


def run(rounds: int = 20) -> dict[str, Any]:
    """Compares the catalogue's networks on both providers, and measures the speed of some in both number formats.

    Raises:
        StartupError: There is no GPU that ONNX Runtime can use.
    """
    provider = speed.choose("cuda")
    return {
        "gpu": torch.cuda.get_device_name(provider.device) if torch.cuda.is_available() else "",
        "onnxruntime": ort.__version__,
        "torch": torch.__version__,
        "timed": [measured for name in _TIMED for measured in _timed(name, provider, rounds)],
        "compared": _all_compared(provider),
    }


def _all_compared(provider: Provider) -> list[dict[str, Any]]:
    """Compares several networks at once, since most of the time goes into exporting them."""
    with ProcessPoolExecutor(_PROCESSES, multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(partial(_compared, provider=provider), _COMPARED))


def _compared(name: str, provider: Provider) -> dict[str, Any]:
    """Runs a network's graph in both number formats on the GPU and on the CPU, the same photos in the same batches."""
    torch.set_num_threads(_THREADS)
    (row,) = rows.matching([name])
    described: dict[str, Any] = {"network": row.name, "task": rows.task_name(row.task)}
    candidate = proof.live(row)
    packaging = candidate.packaging
    try:
        content = assembly.export(candidate, pb.PRECISION_FP32).content
    except ExportError as error:
        return {**described, "error": str(error)}
    images = inputs.photos(packaging.spec)[: proof.IMAGES]
    answers = _answers(parity.runner(parity.session(content), packaging.feeds), images)
    opened, on_cpu = _on_gpu(content, images, packaging, provider)
    described |= {"fp32": proof.distance(answers, _answers(opened, images)), "on_cpu": on_cpu}
    try:
        half = precision.convert(content, pb.PRECISION_FP16, None, packaging.feeds).content
    except ExportError as error:
        return {**described, "error": str(error)}
    emulated = precision.runner(half, pb.PRECISION_FP16, packaging.feeds)
    opened, on_cpu = _on_gpu(half, images, packaging, provider)
    described |= {
        "fp16": proof.distance(answers, _answers(opened, images)),
        "fp16_emulated": proof.distance(answers, _answers(emulated, images)),
        "fp16_on_cpu": on_cpu,
    }
    return described


def _answers(runner: Runner, images: npt.NDArray[np.uint8]) -> parity.Outputs:
    return agreement.run(runner, images, 2)


def _session(content: bytes, provider: Provider, profile: Path | None = None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    return ort.InferenceSession(content, options, providers=list(provider.chain))


def _on_gpu(
    content: bytes, images: npt.NDArray[np.uint8], packaging: Packaging, provider: Provider
) -> tuple[Runner, dict[str, int]]:
    """Opens a graph on the GPU, and counts the operators of it that the CPU runs all the same."""
    with tempfile.TemporaryDirectory() as folder:
        profiled = _session(content, provider, Path(folder) / "profile")
        parity.runner(profiled, packaging.feeds)(images[:2])
        events = json.loads(Path(profiled.end_profiling()).read_text(encoding="utf-8"))
    nodes = {
        (event["name"], event["args"]["op_name"])
        for event in events
        if event["cat"] == "Node" and event["args"].get("provider") == "CPUExecutionProvider"
    }
    return parity.runner(_session(content, provider), packaging.feeds), dict(
        Counter(kind for _, kind in nodes)
    )


def _timed(name: str, provider: Provider, rounds: int) -> list[dict[str, Any]]:
    (row,) = rows.matching([name])
    row = rows.Row(row.source, row.name, row.task, row.build, _SIDE)
    candidate = proof.live(row)
    packaging = candidate.packaging
    content = assembly.export(candidate, pb.PRECISION_FP32).content
    forms = {
        "fp32": content,
        "fp16": precision.convert(content, pb.PRECISION_FP16, None, packaging.feeds).content,
    }
    photos = inputs.photos(packaging.spec)
    measured = []
    for batch in BATCHES:
        images = np.ascontiguousarray(np.resize(photos, (batch, *photos.shape[1:])))
        sessions = {kind: _session(graph, provider) for kind, graph in forms.items()}
        runs: dict[str, Runner] = {}
        for kind, session in sessions.items():
            runs[f"{kind}_session"] = _copying(session)
            runs[f"{kind}_device"] = _resident(session, images, provider)
        seconds = fastest(runs, images, rounds)
        measured.append(
            {"network": name, "batch": batch, **{kind: batch / took for kind, took in seconds.items()}}
        )
    return measured


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
        for row in result["timed"]
    ]
    lines += [
        "",
        "| network | task | FP32, GPU against CPU | FP16, GPU against FP32 | FP16, emulated on the CPU "
        "| operators left to the CPU |",
        "|---|---|---:|---:|---:|---|",
    ]
    lines += [
        f"| {row['network']} | {row['task']} | {_figure(row, 'fp32')} | {_figure(row, 'fp16')} "
        f"| {_figure(row, 'fp16_emulated')} | {row.get('error') or _operators(row['on_cpu'])} |"
        for row in result["compared"]
    ]
    return "\n".join(lines)


def _figure(row: dict[str, Any], name: str) -> str:
    return f"{row[name]:.1g}" if name in row else "-"


def _operators(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())) or "none"
