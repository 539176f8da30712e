"""`retinue score` beside the server's own best, and its memory from few rows to a million."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import photos, served, workloads
from benchmarks.machine import ROOT
from benchmarks.served import RetinueServer

# Of the closed loops that the job is held against, the callers and the images of each request: whichever is faster.
_LOADS = ((32, 1), (8, 8))
_LOOK_SECONDS = 0.1
_PROGRAM = "from retinue_client.cli import main; main()"


def run(*, quick: bool) -> dict[str, Any]:
    """Measures server and job in turn, round by round, then jobs of more and more rows of a tiny model."""
    rounds, seconds, images = (1, 1.0, 200) if quick else (3, 10.0, 3000)
    counts = (500, 2_000) if quick else (10_000, 100_000, 1_000_000)
    with tempfile.TemporaryDirectory() as folder, served.running(models=ROOT / "models") as server:
        work = Path(folder)
        rows = [_round(server, work, seconds, images) for _ in range(rounds)]
        (work / "tiny.png").write_bytes(photos.png(28))
        jobs = [_job(server, work, "fashion-cnn", ["tiny.png"], count) for count in counts]
    return {
        "rounds": rounds,
        "images": images,
        "loads": _LOADS,
        **{name: median(row[name] for row in rows) for name in rows[0]},
        "memory": [
            {"rows": count, "peak_bytes": job["peak_bytes"]} for count, job in zip(counts, jobs, strict=True)
        ],
    }


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    least = result["memory"][0]["peak_bytes"]
    loads = " or ".join(f"{callers} callers of {size}" for callers, size in result["loads"])
    lines = [
        f"MobileNetV2, {result['images']:,} JPEGs of 500x375 a job. The server's own best, with {loads} at a time: "
        f"{result['served_per_second']:.0f} images/s.",
        "",
        "| | images/s | of the server's best |",
        "|---|---:|---:|",
        f"| `retinue score` | {result['scored_per_second']:.0f} | {result['ratio']:.2f} |",
        "",
        "| rows of a job | peak memory of its process, MB | over that of the least |",
        "|---:|---:|---:|",
    ]
    lines += [
        f"| {one['rows']:,} | {one['peak_bytes'] / 1e6:.0f} | {one['peak_bytes'] / least:.3f} |"
        for one in result["memory"]
    ]
    return "\n".join(lines)


def _round(server: RetinueServer, work: Path, seconds: float, images: int) -> dict[str, float]:
    """One after the other, so that both find the machine in the same state."""
    workload = workloads.mobilenet()
    best = max(server.measure(workload, callers, seconds, size).images_per_second for callers, size in _LOADS)
    (work / "photo.jpg").write_bytes(photos.jpeg())
    scored = _job(server, work, workload.model, ["photo.jpg"], images)["images_per_second"]
    return {"served_per_second": best, "scored_per_second": scored, "ratio": scored / best}


def _job(server: RetinueServer, work: Path, model: str, names: list[str], count: int) -> dict[str, float]:
    """Runs a job of a list of files, and returns its rate and its process's largest memory.

    Raises:
        RuntimeError: Not all images have a result.
    """
    source, out = work / "list.txt", work / "results"
    with source.open("w", encoding="ascii") as file:
        file.writelines(f"{names[index % len(names)]}\n" for index in range(count))
    command = [sys.executable, "-c", _PROGRAM, "score", str(source), "--task", "classify", "--model", model]
    command += ["--out", str(out), "--overwrite", "--quiet"]
    environment = {**os.environ, "RETINUE_SERVER": server.process.grpc_address}
    peak_bytes = 0
    with subprocess.Popen(command, env=environment) as process:
        while process.poll() is None:
            peak_bytes = max(peak_bytes, _peak_bytes(process.pid))
            try:
                process.wait(_LOOK_SECONDS)
            except subprocess.TimeoutExpired:
                continue
    summary = json.loads((out / "_summary.json").read_bytes())
    if process.returncode or summary["scored"] != count:
        raise RuntimeError(
            f"{summary['scored']} of {count} images were scored, exit code {process.returncode}."
        )
    return {"images_per_second": summary["images_per_second"], "peak_bytes": peak_bytes}


def _peak_bytes(pid: int) -> int:
    """The most resident memory that a process ever had; 0 where it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0
    _, found, rest = status.partition("VmHWM:")
    return int(rest.split()[0]) * 1024 if found else 0
