"""The server on an NVIDIA GPU: beside a bare loop of bound runs, beside the CPU's answers, and what its options change.

`python -m benchmarks.gpu` takes under eight minutes with 16 cores and an H100, prints what it has measured as it goes
and ends with the tables. A part that fails says why and costs the others nothing; one that comes too late is left out.
"""

import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import gpu_grpc, gpu_load, gpu_models
from retinue_export import speed
from retinue_server.bundle.repository import BundleFolder, scan
from retinue_server.runtime.providers import CPU, Provider, available_cores

_LATEST_SECONDS = 400
"""After so long no other part is begun; the longest takes about half a minute."""
_IMPORTANT = {"resnet-50-fp16": 0, "mobilenet-v2": 1, "resnet-50-fp32": 2}
"""What comes first, and what options and instances are tried with, if there is not time for all."""
_ROWS = (1, 8, 64, 128)
_LARGE = (64, 128)
_INSTANCES = (2, 3)
_CLIENTS, _SECONDS = 4, 2.5
_ON_CPU = Provider(CPU, "cpu", "", ((CPU, {}),))
_LAYOUTS = (
    {"prefer_nhwc": "0", "use_tf32": "0"},
    {"prefer_nhwc": "0", "use_tf32": "1"},
    {"prefer_nhwc": "1", "use_tf32": "0"},
    {"prefer_nhwc": "1", "use_tf32": "1"},
)

Result = dict[str, Any]


class _Parts:
    """Measures one thing after the other, and keeps what there is of it."""

    def __init__(self, latest_seconds: float) -> None:
        self.result: Result = {"left_out": [], "failed": []}
        self._began = time.perf_counter()
        self._latest_seconds = latest_seconds

    def add(self, kind: str, what: str, measure: Callable[[], Result]) -> None:
        """Adds a row to those of its kind."""
        began = time.perf_counter()
        if began - self._began > self._latest_seconds:
            self.result["left_out"].append(f"{kind}, {what}")
            return
        try:
            row = {"what": what, **measure()}
        except Exception:
            # There is one run on a GPU, and the other parts are worth having.
            traceback.print_exc()
            self.result["failed"].append(f"{kind}, {what}: {traceback.format_exc(limit=-1).splitlines()[-1]}")
            return
        self.result.setdefault(kind, []).append(row)
        print(f"{kind}, {time.perf_counter() - began:.1f} s: {json.dumps(row)}", flush=True)


def run(
    *,
    quick: bool = False,
    provider: Provider | None = None,
    models: Path | None = None,
    server_provider: str = "cuda",
) -> Result:
    """Measures all of it.

    Args:
        quick: Whether only to see that it runs.
        provider: What runs the networks, instead of CUDA.
        models: A folder of bundles instead of those that are made here.
        server_provider: That of the server that is asked over gRPC.

    Raises:
        ExportError: There is no GPU that ONNX Runtime can use.
    """
    provider = provider or speed.choose("cuda")
    parts = _Parts(_LATEST_SECONDS)
    parts.result |= gpu_models.versions() | {
        "gpu": torch.cuda.get_device_name(provider.devices[0]) if torch.cuda.is_available() else "",
        "torch": torch.__version__,
        "cores": available_cores(),
    }
    with tempfile.TemporaryDirectory() as folder:
        if models is None:
            models = Path(folder)
            gpu_models.make(models)
        clients, seconds = (1, 0.1) if quick else (_CLIENTS, _SECONDS)
        _measure(parts, scan(models), provider, models, server_provider, clients, seconds)
    return parts.result


def _measure(
    parts: _Parts,
    bundles: Sequence[BundleFolder],
    provider: Provider,
    models: Path,
    server_provider: str,
    clients: int,
    seconds: float,
) -> None:
    half, *others = sorted(bundles, key=lambda bundle: _IMPORTANT.get(bundle.name, len(_IMPORTANT)))
    important = [half, *others[:1]]
    for bundle in (half, *others):
        parts.add("bare", bundle.name, partial(_bare, bundle, provider, seconds / 3))
    for instances in _INSTANCES:
        for bundle in (half, *others) if instances == _INSTANCES[0] else important:
            at_once = instances * len(provider.devices)
            parts.add("served", bundle.name, partial(_served, bundle, provider, at_once, seconds))
        if instances == _INSTANCES[0]:
            served = partial(gpu_grpc.measure, models, server_provider, half.name, 2 * seconds, clients)
            parts.add("grpc", half.name, served)
    for bundle in important:
        parts.add("switching", bundle.name, partial(gpu_models.switching, bundle, provider, (1, 8)))
        for options in _LAYOUTS:
            parts.add("options", bundle.name, partial(_layout, bundle, provider, options, seconds / 3))


def _bare(bundle: BundleFolder, provider: Provider, seconds: float) -> Result:
    resident = gpu_models.bare(bundle, provider, _ROWS, seconds, resident=True)
    return {
        "resident": resident,
        "copied": gpu_models.bare(bundle, provider, _LARGE, seconds, resident=False),
    }


def _layout(bundle: BundleFolder, provider: Provider, options: dict[str, str], seconds: float) -> Result:
    rates = gpu_models.bare(bundle, provider, _ROWS, seconds, resident=True, options=options)
    return {"options": options, "rates": rates}


def _served(bundle: BundleFolder, provider: Provider, instances: int, seconds: float) -> Result:
    with gpu_load.running(bundle, provider, instances) as served:
        raw, jpeg = gpu_load.raw(served.model), gpu_load.jpeg(served.model)
        measured = {
            "instances": instances,
            "load_seconds": served.load_seconds,
            "batch_sizes": served.model.profile.batch_sizes,
            "raw": gpu_load.rate(served.model, raw, seconds),
            "jpeg": gpu_load.rate(served.model, jpeg, seconds),
            "raw_alone_ms": gpu_load.alone_ms(served.model, raw),
        }
        answers = gpu_load.answers(served.model)
    with gpu_load.running(bundle, _ON_CPU, available_cores()) as served:
        expected = gpu_load.answers(served.model)
    return {**measured, "apart_from_cpu": gpu_load.apart(expected, answers)}


def table(result: Result) -> str:
    """The result as Markdown."""
    bare = {row["what"]: row for row in result.get("bare", [])}
    lines = [
        f"{result['gpu']}, {result['cores']} cores, ONNX Runtime {result['onnxruntime']} with CUDA {result['cuda']}.",
        "",
        "| bundle | batches at once | raw, images/s | of a bare loop on the device | of one that copies "
        "| JPEG, images/s | one raw image, ms | sizes | loaded in, s | apart from the CPU |",
        "|---|---:|---:|---:|---:|---:|---:|---|---:|---:|",
    ]
    for row in result.get("served", []):
        shares = [
            f"{row['raw'] / max(bare[row['what']][kind].values()):.2f}" if row["what"] in bare else "-"
            for kind in ("resident", "copied")
        ]
        lines.append(
            f"| {row['what']} | {row['instances']} | {row['raw']:,.0f} | {' | '.join(shares)} "
            f"| {row['jpeg']:,.0f} | {row['raw_alone_ms']:.2f} | {', '.join(map(str, row['batch_sizes']))} "
            f"| {row['load_seconds']:.1f} | {row['apart_from_cpu']:.1g} |"
        )
    lines += ["", "Bare loops and the CUDA provider's options, images/s:", ""]
    lines += [f"| | | {' | '.join(map(str, _ROWS))} |", "|---|---|" + "---:|" * len(_ROWS)]
    for row in result.get("bare", []):
        lines.append(f"| {row['what']} | on the device | {_rates(row['resident'])} |")
        lines.append(f"| {row['what']} | copied | {_rates(row['copied'])} |")
    for row in result.get("options", []):
        options = " ".join(f"{key}={value}" for key, value in row["options"].items())
        lines.append(f"| {row['what']} | {options} | {_rates(row['rates'])} |")
    lines.append("")
    lines += [
        f"{row['what']}: a run after one of another batch size takes {row['switched_ms']:.1f} ms, else "
        f"{row['same_ms']:.1f}."
        for row in result.get("switching", [])
    ]
    lines += [
        f"{row['what']} over gRPC from JPEG: {row['images_per_second']:,.0f} images/s with {row['clients']} client "
        f"processes on the same cores; ready after {row['ready_seconds']:.1f} s."
        for row in result.get("grpc", [])
    ]
    lines += [f"FAILED: {what}" for what in result["failed"]]
    lines += [f"Left out for want of time: {what}" for what in result["left_out"]]
    return "\n".join(lines)


def _rates(rates: dict[int, float]) -> str:
    return " | ".join(f"{rates[rows]:,.0f}" if rows in rates else "" for rows in _ROWS)


def main() -> None:
    """Runs it and writes gpu.json into the folder that $OUT names, or into results."""
    result = run(quick="--quick" in sys.argv)
    folder = Path(os.environ.get("OUT") or Path(__file__).parent / "results")
    (folder / "gpu.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(table(result), flush=True)


if __name__ == "__main__":
    main()
