"""torchvision's classifiers: files that do not fit are refused in one sentence, and never executed."""

import os
from pathlib import Path

import pytest
import torch
from torchvision.models import MobileNet_V2_Weights

from retinue_export import torchvision_models
from retinue_export.errors import ExportError
from retinue_server.vision.spec import ResizeMode

SMALL = "squeezenet1_1"


@pytest.fixture(scope="module")
def small_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a small classifier with seven classes."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "small.pth"
    torch.save(torchvision_models.build_network(SMALL, 7).state_dict(), path)
    return path


def labels_file(folder: Path, count: int) -> Path:
    path = folder / "labels.txt"
    path.write_text("".join(f"class {number}\n" for number in range(count)), encoding="utf-8")
    return path


def test_own_weights_and_labels_become_a_candidate(small_weights: Path, tmp_path: Path) -> None:
    made = torchvision_models.candidate(SMALL, "mine", small_weights, labels_file(tmp_path, 7))
    assert made.manifest.name == "mine"
    assert list(made.manifest.labels)[:2] == ["class 0", "class 1"]
    assert made.manifest.source.architecture == f"torchvision.models.{SMALL}"
    assert len(made.manifest.source.weights_sha256) == 64
    assert not made.network.training


def test_a_wrong_number_of_labels_is_refused(small_weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="8 labels, but the weights have 7 classes"):
        torchvision_models.candidate(SMALL, "mine", small_weights, labels_file(tmp_path, 8))


def test_without_labels_torchvisions_own_must_fit(small_weights: Path) -> None:
    with pytest.raises(ExportError, match="1000 classes, but the weights have 7"):
        torchvision_models.candidate(SMALL, "mine", small_weights, None)


def test_weights_of_another_network_are_refused(small_weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="do not fit mobilenet_v2"):
        torchvision_models.candidate("mobilenet_v2", "mine", small_weights, labels_file(tmp_path, 7))


class _Dangerous:
    """Unpickling this would create a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def test_a_file_that_would_run_code_is_refused_and_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "was-run"
    torch.save({"weight": _Dangerous(trace)}, tmp_path / "evil.pth")
    with pytest.raises(ExportError, match="could run code"):
        torchvision_models.read_weights(tmp_path / "evil.pth")
    assert not trace.exists()


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"PK\x03\x04cut short"])
def test_a_file_that_is_no_weights_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.pth"
    path.write_bytes(content)
    with pytest.raises(ExportError, match=r"broken\.pth"):
        torchvision_models.read_weights(path)


def test_a_missing_weights_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="There is no weights file"):
        torchvision_models.read_weights(tmp_path / "none.pth")


def test_a_single_tensor_is_no_state_dict(tmp_path: Path) -> None:
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    with pytest.raises(ExportError, match="no state dict"):
        torchvision_models.read_weights(tmp_path / "tensor.pth")


@pytest.mark.parametrize("content", ["", "cat\n\ndog\n"])
def test_labels_with_an_empty_line_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ExportError, match="one label a line"):
        torchvision_models.read_labels(path)


def test_an_unknown_architecture_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ExportError, match="mobilenet_v2"):
        torchvision_models.find_preset("mobilenet_v9", None)


def test_a_detector_is_no_classifier() -> None:
    with pytest.raises(ExportError, match="no image classifier"):
        torchvision_models.find_preset("ssd300_vgg16", None)


def test_weights_are_recognised_by_their_file_name() -> None:
    first = torchvision_models.find_preset("mobilenet_v2", Path("mobilenet_v2-b0353104.pth"))
    assert first.weights is MobileNet_V2_Weights.IMAGENET1K_V1
    assert (first.spec.shorter_side, first.spec.height, first.spec.width) == (256, 224, 224)
    assert first.spec.resize_mode is ResizeMode.SHORTER_SIDE_CENTER_CROP
    assert not first.spec.draft_decoding
    second = torchvision_models.find_preset("mobilenet_v2", Path("mobilenet_v2-7ebf99e0.pth"))
    assert second.weights is MobileNet_V2_Weights.IMAGENET1K_V2
    assert second.spec.shorter_side == 232
