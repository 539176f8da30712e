"""MobileNetV2 at every concurrency and size of requests, from JPEG and from raw pixels."""

from typing import Any

from benchmarks import ratios, roofline, served, workloads
from benchmarks.ratios import Row

_CALLERS = (1, 4, 16, 64)
_IMAGES = (1, 8, 32)
# As many images as are sent at once, which by default would be refused.
_LIMITS = ("--max-queue-images", "4096", "--max-bytes-in-flight", str(2**30))

_Cell = tuple[str, int, int]


def run(*, quick: bool) -> dict[str, Any]:
    """Measures a roofline before the cells of each concurrency."""
    rounds, seconds, concurrencies = (1, 1.0, _CALLERS[:2]) if quick else (2, 3.0, _CALLERS)
    cells: dict[_Cell, list[Row]] = {}
    with served.running(*_LIMITS) as server:
        for _ in range(rounds):
            for workload in (workloads.mobilenet(), workloads.mobilenet_raw()):
                line = roofline.of(workload, quick=quick)
                for callers in concurrencies:
                    ceiling = line.measure(seconds)
                    for images in _IMAGES:
                        row = ratios.beside(server.measure(workload, callers, seconds, images), ceiling)
                        cells.setdefault((workload.title, callers, images), []).append(row)
    return {
        "rounds": rounds,
        "seconds": seconds,
        "cells": [
            {"workload": title, "callers": callers, "images": images, **ratios.medians(rows)}
            for (title, callers, images), rows in cells.items()
        ],
    }


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        "| | callers | images a request | images/s | of the roofline | CPU ms/image | over the roofline's "
        "| p50 ms | p99 ms | client's share of the CPU |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['workload']} | {row['callers']} | {row['images']} | {row['images_per_second']:,.0f} "
        f"| {row['rate_ratio']:.2f} | {1000 * row['cpu_seconds_per_image']:.2f} | {row['cpu_ratio']:.2f} "
        f"| {row['p50_ms']:.1f} | {row['p99_ms']:.1f} | {100 * row['client_share']:.1f} % |"
        for row in result["cells"]
    ]
    return "\n".join(lines)
