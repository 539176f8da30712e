"""MobileNetV2 from JPEG under requests that nobody paces: from half of what the server can do to ten times that."""

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import open_loop, served, workloads
from benchmarks.open_loop import Order

_LOADS = (0.5, 0.8, 1.0, 1.5, 3.0, 10.0)
"""Times the capacity."""
_CALLERS = 32
_TIMEOUT_MS = 1000


def run(*, quick: bool) -> dict[str, Any]:
    """Measures the capacity in a closed loop, before and after, and then what becomes of an open loop's requests."""
    seconds = 2.0 if quick else 10.0
    workload = workloads.mobilenet()
    with served.running() as server, tempfile.TemporaryDirectory() as folder:
        body = Path(folder) / "body"
        body.write_bytes(workload.request())
        before = server.measure(workload, _CALLERS, seconds / 2).images_per_second
        rows = []
        for load in _LOADS:
            order = Order(
                address=server.process.grpc_address,
                path=served.CLASSIFY,
                body_file=str(body),
                rate_per_second=load * before,
                warming_seconds=seconds / 4,
                seconds=seconds,
                timeout_ms=_TIMEOUT_MS,
            )
            rows.append({"load": load, **asdict(open_loop.drive(order))})
        after = server.measure(workload, _CALLERS, seconds / 2).images_per_second
    capacity = (before + after) / 2
    return {
        "workload": workload.title,
        "timeout_ms": _TIMEOUT_MS,
        "capacity_per_second": capacity,
        "capacity_before_and_after": [before, after],
        "loads": [{**row, "goodput_ratio": row["goodput_per_second"] / capacity} for row in rows],
    }


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    before, after = result["capacity_before_and_after"]
    lines = [
        f"{result['workload']}; capacity {result['capacity_per_second']:.0f}/s ({before:.0f} before, {after:.0f} "
        f"after); each request has {result['timeout_ms'] / 1000:g} s.",
        "",
        "| offered, times capacity | offered/s | answered in time/s | of the capacity | p50 ms | p99 ms | refused "
        "| refusal p50 ms | p99 ms | other | sent late, p99 ms | client's share of the CPU |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|---:|---:|",
    ]
    lines += [
        f"| {row['load']:g} | {row['offered_per_second']:.0f} | {row['goodput_per_second']:.0f} "
        f"| {row['goodput_ratio']:.2f} | {row['p50_ms']:.1f} | {row['p99_ms']:.1f} "
        f"| {100 * row['refused_share']:.1f} % | {row['refusal_p50_ms']:.1f} | {row['refusal_p99_ms']:.1f} "
        f"| {_others(row['statuses'])} | {row['late_p99_ms']:.1f} | {100 * row['client_share']:.1f} % |"
        for row in result["loads"]
    ]
    return "\n".join(lines)


def _others(statuses: dict[str, float]) -> str:
    others = {name: share for name, share in statuses.items() if name not in {"OK", "RESOURCE_EXHAUSTED"}}
    return ", ".join(f"{100 * share:.1f} % {name}" for name, share in others.items()) or "-"
