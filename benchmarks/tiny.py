"""LeNet on 28x28 pixels, where the network costs next to nothing: what the server itself takes.

One image a request stands beside a bare grpc.aio server that echoes the same bytes, 64 a request beside the roofline.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks import echo, h2load, ratios, roofline, served, workloads
from benchmarks.machine import ROOT
from benchmarks.processes import Tree
from benchmarks.ratios import Row

_CALLERS = 16
_IMAGES = (1, 64)


def run(*, quick: bool) -> dict[str, Any]:
    """Measures roofline, echo and server in turn, round by round, and takes the medians of the rounds."""
    rounds, seconds = (1, 1.0) if quick else (3, 5.0)
    workload = workloads.lenet()
    line = roofline.of(workload, quick=quick)
    ceilings: list[Row] = []
    echoes: list[Row] = []
    rows: dict[int, list[Row]] = {images: [] for images in _IMAGES}
    with served.running() as server, _echo_server() as (address, tree):
        for _ in range(rounds):
            ceiling = line.measure(seconds)
            ceilings.append(
                {
                    "images_per_second": ceiling.images_per_second,
                    "cpu_seconds_per_image": ceiling.cpu_seconds_per_image,
                }
            )
            call = h2load.grpc(address, echo.METHOD, workload.request())
            echoed = h2load.drive(call, tree, _CALLERS, seconds)
            cpu_seconds_per_call = echoed.server_cores / echoed.progress_per_second
            echoes.append(
                {
                    "calls_per_second": echoed.progress_per_second,
                    "cpu_seconds_per_call": cpu_seconds_per_call,
                    "client_share": echoed.client_share,
                }
            )
            for images in _IMAGES:
                row = ratios.beside(server.measure(workload, _CALLERS, seconds, images), ceiling)
                row["cpu_over_echo"] = row["cpu_seconds_per_image"] * images / cpu_seconds_per_call
                rows[images].append(row)
    return {
        "workload": workload.title,
        "callers": _CALLERS,
        "roofline": {**ratios.medians(ceilings), "setting": str(line.best)},
        "echo": ratios.medians(echoes),
        "served": [{"images": images, **ratios.medians(measured)} for images, measured in rows.items()],
    }


@contextmanager
def _echo_server() -> Iterator[tuple[str, Tree]]:
    """Its address, and what it takes of the machine."""
    command = [sys.executable, "-m", "benchmarks.echo"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"127.0.0.1:{int(process.stdout.readline())}", Tree(process.pid)
        finally:
            process.kill()


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    ceiling, echoed = result["roofline"], result["echo"]
    lines = [
        f"{result['workload']}, {result['callers']} callers.",
        "",
        "| | requests/s | images/s | of the roofline | CPU µs/request | over the echo's | CPU µs/image "
        "| client's share of the CPU |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
        f"| roofline: {ceiling['setting']} | | {ceiling['images_per_second']:,.0f} | | | "
        f"| {1e6 * ceiling['cpu_seconds_per_image']:.0f} | |",
        f"| bare grpc.aio echo of the same bytes | {echoed['calls_per_second']:,.0f} | | "
        f"| {1e6 * echoed['cpu_seconds_per_call']:.0f} | | | {100 * echoed['client_share']:.1f} % |",
    ]
    lines += [
        f"| Retinue, {row['images']} a request | {row['images_per_second'] / row['images']:,.0f} "
        f"| {row['images_per_second']:,.0f} | {row['rate_ratio']:.2f} "
        f"| {1e6 * row['cpu_seconds_per_image'] * row['images']:.0f} | {row['cpu_over_echo']:.2f} "
        f"| {1e6 * row['cpu_seconds_per_image']:.0f} | {100 * row['client_share']:.1f} % |"
        for row in result["served"]
    ]
    return "\n".join(lines)
