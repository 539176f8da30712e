"""torchvision's classifiers: what is said of their weights, and refusals of files that do not fit."""

import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
import torchvision
from torchvision.models import Weights, WeightsEnum
from torchvision.transforms._presets import ImageClassification

from retinue_export import torchvision_models
from retinue_export.errors import ExportError
from retinue_server.bundle import manifest as manifest_file
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


@pytest.fixture
def published(small_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weights file that torchvision lists, after another one; torch has downloaded nothing yet."""
    digits = manifest_file.file_sha256(small_weights)[:8]
    path = tmp_path / f"small-{digits}.pth"
    shutil.copy(small_weights, path)
    meta = {"categories": [f"kind {number}" for number in range(7)]}

    class Listed(WeightsEnum):
        OLD = Weights("https://invalid/small-00000000.pth", partial(ImageClassification, crop_size=200), meta)
        NEW = Weights(path.as_uri(), partial(ImageClassification, crop_size=224), meta)

    monkeypatch.setattr(torchvision.models, "get_model_weights", lambda _architecture: Listed)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return path


def test_torchvisions_own_file_is_recognised_whatever_it_is_called(
    published: Path, small_weights: Path, tmp_path: Path
) -> None:
    for labels in (None, labels_file(tmp_path, 7)):
        made = torchvision_models.candidate(SMALL, "mine", small_weights, labels)
        assert made.manifest.description.endswith("trained on ImageNet (NEW).")
        assert made.manifest.source.licence == "BSD-3-Clause"
        assert made.manifest.source.weights == "small.pth"
        assert made.packaging.spec.height == 224


def test_an_unknown_file_is_nobodys_whatever_it_is_called(published: Path) -> None:
    torch.save(torchvision_models.build_network(SMALL, 7).state_dict(), published)
    made = torchvision_models.candidate(SMALL, "mine", published, None)
    assert "weights of your own" in made.manifest.description
    assert "ImageNet" not in made.manifest.description
    assert made.manifest.source.licence == "unknown"


def test_a_licence_that_torchvision_names_is_the_weights_own(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = torchvision.models.get_model_weights(SMALL)
    monkeypatch.setitem(listed.NEW.meta, "license", "https://example.org/LICENCE")
    made = torchvision_models.candidate(SMALL, "mine", published, None)
    assert made.manifest.source.licence == "https://example.org/LICENCE"


def test_downloaded_weights_are_named_with_their_hash(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = torchvision.models.get_model_weights(SMALL)
    monkeypatch.setattr(torchvision.models, "get_model_weights", lambda _architecture: [listed.NEW])
    made = torchvision_models.candidate(SMALL, "mine", None, None)
    assert made.manifest.source.weights == published.name
    assert made.manifest.source.weights_sha256 == manifest_file.file_sha256(published)


def test_a_wrong_number_of_labels_is_refused(small_weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="8 labels, but the weights have 7 classes"):
        torchvision_models.candidate(SMALL, "mine", small_weights, labels_file(tmp_path, 8))


def test_without_labels_torchvisions_own_must_fit(small_weights: Path) -> None:
    with pytest.raises(ExportError, match="1000 classes, but the weights have 7"):
        torchvision_models.candidate(SMALL, "mine", small_weights, None)


def test_weights_of_another_network_are_refused(small_weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="do not fit mobilenet_v2"):
        torchvision_models.candidate("mobilenet_v2", "mine", small_weights, labels_file(tmp_path, 7))


def test_an_unknown_architecture_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ExportError, match="mobilenet_v2"):
        torchvision_models.find_preset("mobilenet_v9")


def test_a_detector_is_no_classifier() -> None:
    with pytest.raises(ExportError, match="no image classifier"):
        torchvision_models.find_preset("ssd300_vgg16")


def test_weights_are_recognised_by_the_hash_of_their_file() -> None:
    first = torchvision_models.find_preset("mobilenet_v2", "b0353104" + 56 * "0")
    assert first.training == "trained on ImageNet (IMAGENET1K_V1)"
    assert first.recognised
    assert (first.spec.shorter_side, first.spec.height, first.spec.width) == (256, 224, 224)
    assert first.spec.resize_mode is ResizeMode.SHORTER_SIDE_CENTER_CROP
    assert not first.spec.draft_decoding
    second = torchvision_models.find_preset("mobilenet_v2", "7ebf99e0" + 56 * "0")
    assert second.training == "trained on ImageNet (IMAGENET1K_V2)"
    assert second.spec.shorter_side == 232
