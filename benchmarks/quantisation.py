"""INT8 against FP32 on the CPU: images a second of the bare network, and how often both answer alike.

Both take turns in one process, so that what else the machine does hits them alike; the ratio is the result. MobileNetV2
has torchvision's own weights where they were fetched, ResNet-50 random but live ones, whose answers mean nothing: those
are not compared.
"""

import time
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch
from PIL import Image
from retinue.v1 import manifest_pb2 as pb
from torch import nn

from benchmarks.machine import ROOT
from benchmarks.photos import jpegs
from retinue_export import folding, graph, inputs, precision, quality, torchvision_models, weight_files
from retinue_export.catalogue.liveness import enliven
from retinue_export.image_folders import Calibration
from retinue_export.packaging import Packaging, classifier
from retinue_export.parity import Runner

THREADS = (1, 2)
"""In a run: of one of the server's instances, and the machine's."""
BATCH = 8
_MODELS = ("resnet50", "mobilenet_v2")
_WEIGHTS = ROOT / ".work" / "weights" / "mobilenet_v2-b0353104.pth"
_RANDOM = "random"
_CROPS = 160
"""Of the photos; every fourth is held back from calibration."""
_SMALLEST_CROP = 0.6


def run(*, quick: bool) -> dict[str, Any]:
    """Quantises each network and measures it many times in turn with its original."""
    rounds = 3 if quick else 30
    return {"batch": BATCH, "networks": [_network(name, rounds) for name in _MODELS]}


def _network(name: str, rounds: int) -> dict[str, Any]:
    preset = torchvision_models.find_preset(name)
    packaging = classifier(preset.spec, preset.normalisation)
    images = inputs.prepared(_crops(), preset.spec)
    network, weights = _weighted(name, packaging, images)
    began = time.perf_counter()
    content = packaging.graph(folding.folded(network)).SerializeToString()
    exported = time.perf_counter()
    held_back = images[::4]
    calibration = Calibration("crops", np.delete(images, np.s_[::4], axis=0), held_back)
    quantised = precision.convert(content, pb.PRECISION_INT8, calibration, packaging.feeds).content
    done = time.perf_counter()
    speeds = [_speeds(content, quantised, threads, images[:BATCH], rounds) for threads in THREADS]
    runs = {"fp32": _runner(content, max(THREADS)), "int8": _runner(quantised, max(THREADS))}
    return {
        "network": name,
        "weights": weights,
        "export_seconds": exported - began,
        "quantise_seconds": done - exported,
        "megabytes": {"fp32": len(content) / 1e6, "int8": len(quantised) / 1e6},
        "speeds": speeds,
        "same_top1": {
            "held_back_crops": _agreement(runs, held_back) if weights != _RANDOM else None,
            "sample_images": _agreement(runs, inputs.photos(preset.spec)) if weights != _RANDOM else None,
        },
    }


def _agreement(runs: dict[str, Runner], images: npt.NDArray[np.uint8]) -> dict[str, float]:
    found = quality.agreement(pb.TASK_CLASSIFY, runs["fp32"], runs["int8"], images, 0)
    return {"images": len(images), "share": found["top1_agreement"]}


def _weighted(name: str, packaging: Packaging, images: npt.NDArray[np.uint8]) -> tuple[nn.Module, str]:
    """Builds a network with the weights there are."""
    torch.manual_seed(0)
    network = torchvision_models.build_network(name, 1000).eval()
    if name == "mobilenet_v2" and _WEIGHTS.is_file():
        weight_files.load_into(network, weight_files.read(_WEIGHTS), name)
        return network, _WEIGHTS.name
    normalisation = packaging.normalisation
    normalise = graph.PixelsIn(nn.Identity(), normalisation.mean, normalisation.deviation)
    enliven(network, normalise(torch.from_numpy(images[:16])))
    return network, _RANDOM


def _speeds(
    content: bytes, quantised: bytes, threads: int, batch: npt.NDArray[np.uint8], rounds: int
) -> dict[str, float]:
    """Images a second of both, measured in turn."""
    seconds = fastest({"fp32": _runner(content, threads), "int8": _runner(quantised, threads)}, batch, rounds)
    return {
        "threads": threads,
        **{f"{kind}_images_per_second": len(batch) / took for kind, took in seconds.items()},
        "ratio": seconds["fp32"] / seconds["int8"],
    }


def _runner(content: bytes, threads: int) -> Runner:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # As in the server.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda images: {"probabilities": session.run(["probabilities"], {"images": images})[0]}


def fastest(runs: dict[str, Runner], batch: npt.NDArray[np.uint8], rounds: int) -> dict[str, float]:
    """Seconds of the fastest run of each: other work on the machine only ever makes one slower."""
    fastest = dict.fromkeys(runs, float("inf"))
    for runner in runs.values():
        runner(batch)
    for _ in range(rounds):
        for kind, runner in runs.items():
            began = time.perf_counter()
            runner(batch)
            fastest[kind] = min(fastest[kind], time.perf_counter() - began)
    return fastest


def _crops() -> list[Image.Image]:
    """Random parts of the photos of every scenario, always the same."""
    photos = [Image.open(BytesIO(encoded)) for encoded in jpegs()]
    random = np.random.default_rng(0)
    cut = []
    for number in range(_CROPS):
        photo = photos[number % len(photos)]
        scale = random.uniform(_SMALLEST_CROP, 1)
        width, height = int(photo.width * scale), int(photo.height * scale)
        left = int(random.integers(0, photo.width - width + 1))
        top = int(random.integers(0, photo.height - height + 1))
        cut.append(photo.crop((left, top, left + width, top + height)))
    return cut


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        f"Batches of {result['batch']}, without decoding.",
        "",
        "| network | weights | threads | FP32 images/s | INT8 images/s | INT8 over FP32 |",
        "|---|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['network']} | {row['weights']} | {speed['threads']} | {speed['fp32_images_per_second']:.0f} "
        f"| {speed['int8_images_per_second']:.0f} | {speed['ratio']:.2f} |"
        for row in result["networks"]
        for speed in row["speeds"]
    ]
    lines += [
        "",
        "| network | same top-1: held-back crops | same top-1: sample images | export s | quantise s | FP32 MB "
        "| INT8 MB |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['network']} | {_share(row['same_top1']['held_back_crops'])} "
        f"| {_share(row['same_top1']['sample_images'])} | {row['export_seconds']:.1f} "
        f"| {row['quantise_seconds']:.1f} | {row['megabytes']['fp32']:.1f} | {row['megabytes']['int8']:.1f} |"
        for row in result["networks"]
    ]
    return "\n".join(lines)


def _share(agreement: dict[str, float] | None) -> str:
    if agreement is None:
        return "-"
    return f"{100 * agreement['share']:.1f} % of {agreement['images']:.0f}"
