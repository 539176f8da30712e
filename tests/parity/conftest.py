"""What the parity tests share."""

import subprocess
from pathlib import Path

import pytest
from tests.server_process import ROOT
from tests.system_packages import unavailable


@pytest.fixture(scope="session")
def mobilenet_weights() -> Path:
    """torchvision's own weights file, from the package index."""
    out = ROOT / ".work" / "weights"
    fetched = subprocess.run(
        [ROOT / "scripts" / "fetch-mobilenet-weights", out], capture_output=True, text=True, check=False
    )
    if fetched.returncode != 0:
        unavailable(f"the weights of MobileNetV2 could not be fetched: {fetched.stderr.strip()[-300:]}")
    return out / "mobilenet_v2-b0353104.pth"
