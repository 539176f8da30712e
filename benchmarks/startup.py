"""From the start of the process to the first moment it takes requests, with all bundled models."""

import tempfile
from statistics import median
from typing import Any

from tests.server_process import running_server

from benchmarks.machine import ROOT


def run(*, quick: bool) -> dict[str, Any]:
    """Starts the server for the first time on a machine, as far as its cache goes, and then several times more."""
    starts = 1 if quick else 5
    seconds = []
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(1 + starts):
            with running_server(ROOT / "models", "--provider", "cpu", "--cache-folder", cache) as server:
                seconds.append(float(server.wait_for_event("ready")["seconds"]))
    models = sum(1 for _ in (ROOT / "models").glob("*/*/manifest.json"))
    first, *later = seconds
    return {
        "models": models,
        "first_seconds": first,
        "median_seconds": median(later),
        "slowest_seconds": max(later),
    }


def table(result: dict[str, Any]) -> str:
    """The result as a line of Markdown."""
    return (
        f"Ready {result['median_seconds']:.2f} s after start with {result['models']} bundles "
        f"(slowest of the runs {result['slowest_seconds']:.2f} s; the first start on a machine, which measures the "
        f"models, {result['first_seconds']:.2f} s)."
    )
