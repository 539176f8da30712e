"""`retinue score --local`: the engine in the job's own process, as a share of the roofline."""

import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import bundles, photos, ratios, roofline, workloads
from benchmarks.ratios import Row

_PROGRAM = "from retinue_client.cli import main; main()"
# Of a job's images; those before are scored while it warms up.
_WARM_SHARE = 0.25


def run(*, quick: bool) -> dict[str, Any]:
    """Measures roofline and job in turn, round by round, and takes the medians of the rounds."""
    rounds, seconds = (1, 2.0) if quick else (5, 15.0)
    workload = workloads.mobilenet()
    line = roofline.of(workload, quick=quick)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "photo.jpg").write_bytes(photos.jpeg())
        for _ in range(rounds):
            ceiling = line.measure(min(seconds, 5.0)).images_per_second
            images = math.ceil(ceiling * seconds / (1 - _WARM_SHARE))
            scored = _images_per_second(work, workload.model, images)
            rows.append(
                {"roofline_per_second": ceiling, "images_per_second": scored, "ratio": scored / ceiling}
            )
    return {"workload": workload.title, "roofline": str(line.best), **ratios.medians(rows)}


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    return "\n".join(
        [
            f"{result['workload']}. The roofline is {result['roofline']}.",
            "",
            "| | images/s | of the roofline |",
            "|---|---:|---:|",
            f"| roofline | {result['roofline_per_second']:,.0f} | |",
            f"| `retinue score --local` | {result['images_per_second']:,.0f} | {result['ratio']:.2f} |",
        ]
    )


def _images_per_second(work: Path, model: str, images: int) -> float:
    """Runs a job of so many images, and returns its rate once it is warm, as it says itself.

    Raises:
        RuntimeError: Not all images have a result.
    """
    source, out = work / "list.txt", work / "results"
    source.write_text("photo.jpg\n" * images, encoding="ascii")
    command = [sys.executable, "-c", _PROGRAM, "score", str(source), "--task", "classify", "--model", model]
    command += [
        "--out",
        str(out),
        "--overwrite",
        "--json-progress",
        "--local",
        "--models",
        str(bundles.folder()),
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RETINUE_")}
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    events = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    moments = [event for event in events if event["event"] == "progress"]
    warm = [moment for moment in moments if moment["images"] >= _WARM_SHARE * images]
    summary = json.loads((out / "_summary.json").read_bytes())
    if done.returncode or summary["scored"] != images or len(warm) < 2:
        raise RuntimeError(f"{summary['scored']} of {images} images were scored: {done.stderr[-500:]}")
    first, last = warm[0], warm[-1]
    return float(last["images"] - first["images"]) / float(last["seconds"] - first["seconds"])
