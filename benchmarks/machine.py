"""What was measured where: the facts without which a figure means nothing."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from retinue_server.runtime.providers import available_cores

ROOT = Path(__file__).parents[1]
_PACKAGES = ("onnxruntime", "grpcio", "pillow", "numpy", "protobuf", "uvloop")


def facts() -> dict[str, Any]:
    """Commit, machine, what it was busy with in the last minute, and versions."""
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "--short", "HEAD") + ("-dirty" if _git("status", "--porcelain") else ""),
        "processor": _processor(),
        "cores": available_cores(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _PACKAGES},
    }


def sentence(facts: dict[str, Any]) -> str:
    """The facts in words."""
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    return (
        f"Measured at commit {facts['commit']}, {facts['measured_at']}, {facts['processor']}, "
        f"{facts['cores']} cores, {versions}."
    )


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
