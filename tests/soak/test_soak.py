"""A short soak: mixed traffic and every fault there is, and all that must hold holds."""

import subprocess
import sys

import pytest
from tests.server_process import ROOT

_MINUTES = 3


@pytest.mark.slow
def test_a_short_soak_loses_nothing_and_leaves_nothing_behind() -> None:
    command = [sys.executable, "-m", "tests.soak", "--minutes", str(_MINUTES), "--seed", "1"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "**broken**" not in run.stdout
    for fault in ("SIGTERM", "SIGKILL", "front end is killed", "cache is wiped", "certificate is replaced"):
        assert fault in run.stdout
