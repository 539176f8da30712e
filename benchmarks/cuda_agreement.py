"""Exported graphs on an NVIDIA GPU: whether they answer as on the CPU, and what FP16 changes there.

Weights are random but live, see `retinue_export.catalogue`, so what FP16 changes is no loss of quality. Beside it
stands what the export tool's emulation of FP16 foretells.
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

from retinue_export import assembly, inputs, parity, precision, speed
from retinue_export.catalogue import proof, rows
from retinue_export.errors import ExportError
from retinue_export.packaging import Packaging
from retinue_export.parity import Outputs, Runner
from retinue_server.runtime.providers import Provider

_NETWORKS = (
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
_PROCESSES, _THREADS = 5, 3
"""Most of the time goes into exporting."""
_BATCH = 2
_IMAGES = 4


def run() -> dict[str, Any]:
    """Compares the catalogue's networks; prints each as it is done.

    Raises:
        StartupError: There is no GPU that ONNX Runtime can use.
    """
    provider = speed.choose("cuda")
    compared = []
    with ProcessPoolExecutor(_PROCESSES, multiprocessing.get_context("spawn")) as pool:
        for row in pool.map(partial(_compared, provider=provider), _NETWORKS):
            print(json.dumps(row), flush=True)
            compared.append(row)
    return {"onnxruntime": ort.__version__, "torch": torch.__version__, "compared": compared}


def _compared(name: str, provider: Provider) -> dict[str, Any]:
    """Runs a network's graph in both number formats on the GPU and on the CPU, the same photos in the same batches."""
    torch.set_num_threads(_THREADS)
    (row,) = rows.matching([name])
    described: dict[str, Any] = {"network": row.name, "task": rows.task_name(row.task)}
    candidate = proof.live(row)
    packaging = candidate.packaging
    images = inputs.photos(packaging.spec)[:_IMAGES]
    try:
        content = assembly.export(candidate, pb.PRECISION_FP32).content
        expected = _answers(parity.runner(parity.session(content), packaging.feeds), images)
        actual, described["left_to_cpu"] = _on_gpu(content, images, packaging, provider)
        described["fp32"] = proof.distance(expected, actual)
        half = precision.convert(content, pb.PRECISION_FP16, None, packaging.feeds).content
        emulated = precision.runner(half, pb.PRECISION_FP16, packaging.feeds)
        described["fp16_emulated"] = proof.distance(expected, _answers(emulated, images))
        actual, _ = _on_gpu(half, images, packaging, provider)
        described["fp16"] = proof.distance(expected, actual)
    except ExportError as error:
        described["error"] = str(error)
    return described


def _answers(runner: Runner, images: npt.NDArray[np.uint8]) -> Outputs:
    return parity.answers(runner, images, _BATCH)


def _on_gpu(
    content: bytes, images: npt.NDArray[np.uint8], packaging: Packaging, provider: Provider
) -> tuple[Outputs, dict[str, int]]:
    """Runs a graph on the GPU, and counts the operators of it that the CPU ran all the same."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(content, options, providers=list(provider.chain))
        answers = _answers(parity.runner(session, packaging.feeds), images)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    nodes = {
        (event["name"], event["args"]["op_name"])
        for event in events
        if event["cat"] == "Node" and event["args"].get("provider") == "CPUExecutionProvider"
    }
    return answers, dict(Counter(kind for _, kind in nodes))


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        f"ONNX Runtime {result['onnxruntime']}, graphs exported by PyTorch {result['torch']}.",
        "",
        "| network | task | FP32, GPU against CPU | FP16, GPU against FP32 | FP16, emulated on the CPU "
        "| operators left to the CPU |",
        "|---|---|---:|---:|---:|---|",
    ]
    lines += [
        f"| {row['network']} | {row['task']} | {_figure(row, 'fp32')} | {_figure(row, 'fp16')} "
        f"| {_figure(row, 'fp16_emulated')} | {row.get('error') or _operators(row['left_to_cpu'])} |"
        for row in result["compared"]
    ]
    return "\n".join(lines)


def _figure(row: dict[str, Any], name: str) -> str:
    return f"{row[name]:.1g}" if name in row else "-"


def _operators(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())) or "none"
