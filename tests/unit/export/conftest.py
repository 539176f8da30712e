"""What all tests of the export tools share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.unit.export import foreign
from tests.unit.export.adopting import NAMES

from retinue_export.adoption.facts import Told
from retinue_server.vision.spec import ResizeMode


@pytest.fixture(autouse=True, scope="session")
def _one_torch_thread() -> Iterator[None]:
    """Tiny networks are slower on several threads, and far slower where another process wants the cores too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.txt"
    path.write_text("\n".join(NAMES) + "\n")
    return path


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """A plain file that says nothing of itself."""
    return foreign.export(
        foreign.Classifier(3), tmp_path / "plain.onnx", (torch.rand(1, 3, 32, 32),), ["x"], ["y"]
    )


@pytest.fixture
def told(labels: Path) -> list[str]:
    return ["--mean", "0,0,0", "--std", "1,1,1", "--resize", "stretch", "--labels", str(labels)]


@pytest.fixture
def plain(labels: Path) -> Told:
    """What must be told of a file that says nothing of itself."""
    return Told(labels=labels, mean="0,0,0", std="1,1,1", resize=ResizeMode.STRETCH)
