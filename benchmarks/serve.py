"""The server under a closed loop, from 500x375 JPEG to top-5, beside the roofline of the same minute."""

import json
import subprocess
import sys
from statistics import median
from typing import Any

import psutil
from tests.server_process import ServerProcess, running_server

from benchmarks import roofline
from benchmarks.machine import ROOT
from benchmarks.photos import jpegs

MODEL = "mobilenet-v2"
CALLERS = (1, 8, 32)


def run(rounds: int = 3, seconds: float = 8.0) -> dict[str, Any]:
    """Measures roofline and server in turn, `rounds` times, and compares their medians.

    Returns:
        The roofline's setting and figures, and one row for each number of callers.
    """
    bundle = ROOT / "models" / MODEL / "1"
    images = jpegs()
    setting = roofline.best(bundle, images, seconds / 2).setting
    ceilings: list[roofline.Measurement] = []
    served: dict[int, list[dict[str, float]]] = {callers: [] for callers in CALLERS}
    with running_server(ROOT / "models", "--provider", "cpu") as server:
        for _ in range(rounds):
            ceilings.append(roofline.measure(bundle, images, setting, seconds))
            for callers in CALLERS:
                served[callers].append(_drive(server, callers, seconds))
    ceiling_rate = median(ceiling.images_per_second for ceiling in ceilings)
    ceiling_cpu = median(ceiling.cpu_seconds_per_image for ceiling in ceilings)
    rows = []
    for callers, measured in served.items():
        row = {name: median(one[name] for one in measured) for name in measured[0]}
        row["rate_ratio"] = row["images_per_second"] / ceiling_rate
        row["cpu_ratio"] = row["server_cpu_seconds_per_image"] / ceiling_cpu
        rows.append({"callers": callers, **row})
    return {
        "model": MODEL,
        "roofline": {
            "setting": ceilings[0].as_json()["setting"],
            "images_per_second": ceiling_rate,
            "cpu_seconds_per_image": ceiling_cpu,
        },
        "served": rows,
    }


def _drive(server: ServerProcess, callers: int, seconds: float) -> dict[str, float]:
    process = psutil.Process(server.process.pid)
    arguments = [server.grpc_address, MODEL, str(callers), str(seconds)]
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.load", *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "measuring\n"
        before = process.cpu_times()
        result = json.loads(client.stdout.readline())
        after = process.cpu_times()
    cpu_seconds = after.user + after.system - before.user - before.system
    return {
        "images_per_second": result["images_per_second"],
        "server_cpu_seconds_per_image": cpu_seconds / result["images"],
        "client_cpu_seconds_per_image": result["client_cpu_seconds"] / result["images"],
        "p50_ms": result["p50_ms"],
        "p99_ms": result["p99_ms"],
    }


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    ceiling = result["roofline"]
    setting = ceiling["setting"]
    lines = [
        f"Roofline: {ceiling['images_per_second']:.0f} images/s, "
        f"{1000 * ceiling['cpu_seconds_per_image']:.2f} ms of CPU an image, with {setting['workers']} workers of "
        f"{setting['intra_op_threads']} thread(s) and batch {setting['batch']}.",
        "",
        "| callers | images/s | of the roofline | server CPU ms/image | over the roofline "
        "| p50 ms | p99 ms | client CPU ms/image |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['callers']} | {row['images_per_second']:.0f} | {row['rate_ratio']:.2f} "
        f"| {1000 * row['server_cpu_seconds_per_image']:.2f} | {row['cpu_ratio']:.2f} "
        f"| {row['p50_ms']:.1f} | {row['p99_ms']:.1f} | {1000 * row['client_cpu_seconds_per_image']:.2f} |"
        for row in result["served"]
    ]
    return "\n".join(lines)
