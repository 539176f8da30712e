"""What the process of a scoring job keeps of the memory that it has freed."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("chosen", [None, "mimalloc"])
def test_arrow_gives_back_what_is_freed_unless_somebody_has_chosen(chosen, monkeypatch):
    monkeypatch.delenv("ARROW_DEFAULT_MEMORY_POOL", raising=False)
    if chosen is not None:
        monkeypatch.setenv("ARROW_DEFAULT_MEMORY_POOL", chosen)
    program = "import retinue_client.cli._score, pyarrow; print(pyarrow.default_memory_pool().backend_name)"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == (chosen or "system")
