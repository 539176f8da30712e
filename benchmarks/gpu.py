"""The server on an NVIDIA GPU: beside a bare loop of bound runs, beside the CPU's answers, and what its options change.

`python -m benchmarks.gpu` takes under eight minutes with 16 cores and an H100, prints what it has measured as it goes
and ends with the tables. A part that fails says why and costs the others nothing; one that comes too late is left out.
"""

import json
import os
import subprocess
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
from benchmarks.machine import ROOT
from retinue_export import speed
from retinue_server.bundle.repository import BundleFolder, scan
from retinue_server.runtime.providers import Provider, available_cores

_LATEST_SECONDS = 420
"""After so long no other part is begun; the longest takes about half a minute."""
_LONGEST_SECONDS = 100
"""A part in a process of its own is given up after so long."""
_IMPORTANT = {"resnet-50-fp16": 0, "mobilenet-v2": 1, "resnet-50-fp32": 2}
"""What comes first, if there is not time for all."""
_ROWS = (1, 8, 64, 128)
_LARGE = (64, 128)
_SETTINGS: Sequence[tuple[int, gpu_load.CudaGraphs]] = ((2, "auto"), (2, "off"), (3, "auto"), (3, "off"))
"""Instances and CUDA graphs that are tried with the first model; the second gets the first two, the others one."""
_CLIENTS, _SECONDS = 4, 2.5
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
        provider: What runs the networks, in this process, instead of CUDA in processes of their own.
        models: A folder of bundles instead of those that are made here.
        server_provider: That of the server that is asked over gRPC.

    Raises:
        ExportError: There is no GPU that ONNX Runtime can use.
    """
    isolated = provider is None
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
        _measure(parts, models, provider, server_provider, clients, seconds, isolated=isolated)
    return parts.result


def _measure(
    parts: _Parts,
    models: Path,
    provider: Provider,
    server_provider: str,
    clients: int,
    seconds: float,
    *,
    isolated: bool,
) -> None:
    def serve(bundle: BundleFolder, settings: Sequence[tuple[int, gpu_load.CudaGraphs]]) -> None:
        parts.add("bare", bundle.name, partial(_bare, bundle, provider, seconds / 3))
        for instances, cuda_graphs in settings:
            at_once = instances * len(provider.devices)
            how = _in_a_process if isolated else gpu_load.serve
            parts.add("served", bundle.name, partial(how, bundle, provider, at_once, cuda_graphs, seconds))

    first, second, *others = sorted(scan(models), key=lambda one: _IMPORTANT.get(one.name, len(_IMPORTANT)))
    serve(first, _SETTINGS)
    for cuda_graphs in ("auto", "off"):
        asked = partial(
            gpu_grpc.measure, models, server_provider, cuda_graphs, first.name, 2 * seconds, clients
        )
        parts.add("grpc", first.name, asked)
    serve(second, _SETTINGS[:2])
    for bundle in others:
        serve(bundle, _SETTINGS[:1])
    for options in _LAYOUTS:
        parts.add("options", first.name, partial(_layout, first, provider, options, seconds / 3))
    for bundle in (first, second):
        parts.add("switching", bundle.name, partial(gpu_models.switching, bundle, provider, (1, 8)))


def _in_a_process(
    bundle: BundleFolder, provider: Provider, instances: int, cuda_graphs: str, seconds: float
) -> Result:
    """As `gpu_load.serve`."""
    models = str(bundle.path.parents[1])
    what = [models, bundle.name, provider.requested, str(instances), cuda_graphs, str(seconds)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_load", *what],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        timeout=_LONGEST_SECONDS,
        check=True,
    )
    *log, result = done.stdout.splitlines()
    print("\n".join(log), flush=True)
    return dict(json.loads(result))


def _bare(bundle: BundleFolder, provider: Provider, seconds: float) -> Result:
    resident = gpu_models.bare(bundle, provider, _ROWS, seconds, resident=True)
    return {
        "resident": resident,
        "copied": gpu_models.bare(bundle, provider, _LARGE, seconds, resident=False),
    }


def _layout(bundle: BundleFolder, provider: Provider, options: dict[str, str], seconds: float) -> Result:
    rates = gpu_models.bare(bundle, provider, _ROWS, seconds, resident=True, options=options)
    return {"options": options, "rates": rates}


def table(result: Result) -> str:
    """The result as Markdown."""
    bare = {row["what"]: row for row in result.get("bare", [])}
    lines = [
        f"{result['gpu']}, {result['cores']} cores, ONNX Runtime {result['onnxruntime']} with CUDA {result['cuda']}.",
        "",
        "| bundle | CUDA graphs | batches at once | raw, images/s | of a bare loop on the device | of one that copies "
        "| JPEG, images/s | one raw image, ms | sizes | loaded in, s | apart from the CPU |",
        "|---|---|---:|---:|---:|---:|---:|---:|---|---:|---:|",
    ]
    for row in result.get("served", []):
        shares = [
            f"{row['raw'] / max(bare[row['what']][kind].values()):.2f}" if row["what"] in bare else "-"
            for kind in ("resident", "copied")
        ]
        lines.append(
            f"| {row['what']} | {row['cuda_graphs']} | {row['instances']} | {row['raw']:,.0f} | {' | '.join(shares)} "
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
        f"{row['what']} over gRPC from JPEG, CUDA graphs {row['cuda_graphs']}: "
        f"{row['images_per_second']:,.0f} images/s with {row['clients']} client processes on the same cores; "
        f"ready after {row['ready_seconds']:.1f} s."
        for row in result.get("grpc", [])
    ]
    lines += [f"FAILED: {what}" for what in result["failed"]]
    lines += [f"Left out for want of time: {what}" for what in result["left_out"]]
    return "\n".join(lines)


def _rates(rates: dict[str, float]) -> str:
    return " | ".join(f"{rates[str(rows)]:,.0f}" if str(rows) in rates else "" for rows in _ROWS)


def main() -> None:
    """Runs it and writes gpu.json into the folder that $OUT names, or into results."""
    result = run(quick="--quick" in sys.argv)
    folder = Path(os.environ.get("OUT") or Path(__file__).parent / "results")
    (folder / "gpu.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(table(result), flush=True)


if __name__ == "__main__":
    main()
