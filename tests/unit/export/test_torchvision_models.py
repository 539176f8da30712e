"""torchvision's networks: what is said of their weights, and refusals of files that do not fit."""

import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
import torchvision
from retinue.v1 import manifest_pb2 as pb
from torch import nn
from torchvision.models import Weights, WeightsEnum
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights
from torchvision.transforms._presets import ImageClassification

from retinue_export import parity, torchvision_models
from retinue_export.errors import ExportError
from retinue_export.torchvision_detectors import architectures
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


@pytest.mark.parametrize(
    ("architecture", "size", "keypoints", "told"),
    [
        ("r3d_18", None, None, "no classifier, segmenter or detector"),
        ("resnet18", (64, 64), None, "leave --size away"),
        ("maskrcnn_resnet50_fpn", None, ("nose",), "leave --keypoints away"),
    ],
)
def test_what_a_network_cannot_be_is_refused(
    architecture: str, size: tuple[int, int] | None, keypoints: tuple[str, ...] | None, told: str
) -> None:
    with pytest.raises(ExportError, match=told):
        torchvision_models.find_preset(architecture, size=size, keypoints=keypoints)


@pytest.mark.parametrize(
    ("architecture", "side", "mode", "pad_value", "classes"),
    [
        ("fcn_resnet50", 520, ResizeMode.LETTERBOX, 114, 21),
        ("fasterrcnn_mobilenet_v3_large_320_fpn", 320, ResizeMode.LETTERBOX, 114, 91),
        ("keypointrcnn_resnet50_fpn", 800, ResizeMode.LETTERBOX, 114, 2),
        ("ssd300_vgg16", 300, ResizeMode.STRETCH, 0, 91),
    ],
)
def test_segmenters_and_detectors_take_images_as_torchvision_scales_them(
    architecture: str, side: int, mode: ResizeMode, pad_value: int, classes: int
) -> None:
    preset = torchvision_models.find_preset(architecture)
    assert (preset.spec.height, preset.spec.width) == (side, side)
    assert (preset.spec.resize_mode, preset.spec.pad_value) == (mode, pad_value)
    assert len(preset.labels) == classes


def test_a_network_for_images_of_another_shape_says_so() -> None:
    preset = torchvision_models.find_preset("retinanet_resnet50_fpn", size=(96, 160))
    assert (preset.spec.height, preset.spec.width) == (96, 160)


def test_the_branch_of_a_segmenter_that_only_training_needs_is_left_out(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained = torchvision.models.get_model(
        "deeplabv3_mobilenet_v3_large", weights=None, weights_backbone=None, num_classes=3, aux_loss=True
    )
    path, labels = tmp_path / "segmenter.pth", tmp_path / "labels.txt"
    torch.save(trained.state_dict(), path)
    labels.write_text("road\nbackground\ntree\n", encoding="utf-8")
    made = torchvision_models.candidate("deeplabv3_mobilenet_v3_large", "mine", path, labels, size="64x96")
    segment = made.manifest.segment
    assert (segment.map_height, segment.map_width, segment.background_class_id) == (64, 96, 1)
    assert made.packaging.batch_sizes == parity.FEW_BATCH_SIZES
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(made.network(images), trained.eval()(images)["out"])


@pytest.mark.parametrize("with_branches", [True, False])
def test_so_are_those_of_googlenet_and_files_may_lack_them(with_branches: bool, tmp_path: Path) -> None:
    trained = torchvision.models.googlenet(
        num_classes=3, aux_logits=with_branches, transform_input=True, init_weights=False
    )
    path, labels = tmp_path / "googlenet.pth", tmp_path / "labels.txt"
    torch.save(trained.state_dict(), path)
    labels.write_text("road\nsea\ntree\n", encoding="utf-8")
    made = torchvision_models.candidate("googlenet", "mine", path, labels)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(made.network.eval()(images), trained.eval()(images))


@pytest.fixture(scope="module")
def detector_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a detector of three kinds of things and the background."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "detector.pth"
    made = architectures.build("ssdlite320_mobilenet_v3_large", 4, 320, 320)
    torch.save(made.detector.state_dict(), path)
    return path


def test_a_detectors_weights_and_labels_become_a_candidate(detector_weights: Path, tmp_path: Path) -> None:
    made = torchvision_models.candidate(
        "ssdlite320_mobilenet_v3_large", "mine", detector_weights, labels_file(tmp_path, 4)
    )
    assert made.manifest.task == pb.TASK_DETECT
    assert made.manifest.detect.default_score_threshold == 0.5
    assert made.manifest.source.licence == "unknown"
    stored = torch.load(detector_weights, weights_only=True)
    for name, value in made.network.state_dict().items():
        assert torch.equal(value, stored[name.removeprefix("detector.")])


def test_a_detector_for_another_number_of_classes_is_told_which(detector_weights: Path) -> None:
    with pytest.raises(ExportError, match="names 91 classes, but the weights have 4 classes"):
        torchvision_models.candidate("ssdlite320_mobilenet_v3_large", "mine", detector_weights, None)


def test_keypoints_of_your_own_have_names_of_your_own(tmp_path: Path) -> None:
    preset = torchvision_models.find_preset(
        "keypointrcnn_resnet50_fpn", size=(64, 64), keypoints=("tip", "stalk")
    )
    network = preset.build(2)
    manifest = pb.ModelManifest()
    preset.packaging(network, preset.spec).describe(manifest)
    assert list(manifest.detect.keypoint_names) == ["tip", "stalk"]


def test_what_torchvisions_builder_sets_for_its_own_weights_is_set() -> None:
    listed = FasterRCNN_ResNet50_FPN_Weights.COCO_V1
    digits = Path(listed.url).stem.rpartition("-")[2]
    for sha256, eps in ((digits + "0" * 56, 0.0), ("1" * 64, 1e-5)):
        preset = torchvision_models.find_preset("fasterrcnn_resnet50_fpn", sha256, (64, 64))
        assert preset.recognised == (eps == 0)
        norms = [part for part in preset.build(91).modules() if isinstance(part, nn.BatchNorm2d)]
        assert {norm.eps for norm in norms} == {eps}


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
