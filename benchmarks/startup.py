"""From the start of the process to the first moment it takes requests, with all bundled models."""

from statistics import median
from typing import Any

from tests.server_process import running_server

from benchmarks.machine import ROOT


def run(starts: int = 5) -> dict[str, Any]:
    """Starts the server several times."""
    seconds = []
    for _ in range(starts):
        with running_server(ROOT / "models", "--provider", "cpu") as server:
            seconds.append(float(server.wait_for_event("ready")["seconds"]))
    models = sum(1 for _ in (ROOT / "models").glob("*/*/manifest.json"))
    return {"models": models, "median_seconds": median(seconds), "slowest_seconds": max(seconds)}


def table(result: dict[str, Any]) -> str:
    """The result as a line of Markdown."""
    return (
        f"Ready {result['median_seconds']:.2f} s after start with {result['models']} bundles "
        f"(slowest of the runs {result['slowest_seconds']:.2f} s)."
    )
