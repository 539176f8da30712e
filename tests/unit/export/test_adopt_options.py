"""Options of `retinue-export adopt` that a file has no use for: refused by name, never passed over."""

import json
from pathlib import Path

import pytest
import torch
from retinue.v1 import manifest_pb2 as pb
from tests.unit.export import foreign
from tests.unit.export.adopting import NAMES, adopt, assert_refused
from torch import nn

from retinue_server.bundle import manifest as manifest_file

PREPROCESSOR = {
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 2,
    "size": {"height": 64, "width": 64},
}


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    return foreign.hugging_face(foreign.Classifier(3), tmp_path / "vit", NAMES, PREPROCESSOR)


@pytest.fixture
def yolo(tmp_path: Path) -> Path:
    return foreign.ultralytics(foreign.YoloV8(3), tmp_path / "yolo.onnx", NAMES)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--task", "segment"], "is there to classify, and --task says segment"),
        (["--output", "probabilities"], "has no output `probabilities`; it has `logits`"),
        (["--iou-threshold", "0.5"], "--iou-threshold has no meaning"),
        (["--score-threshold", "0"], "--score-threshold has no meaning"),
        (["--max-detections", "9"], "--max-detections has no meaning"),
        (["--native-map"], "--native-map has no meaning"),
    ],
)
def test_a_classifier_of_hugging_face_refuses_what_it_does_not_use(
    options: list[str], said: str, vit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused(capsys, vit, options, said)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--task", "segment"], "is there to detect, and --task says segment"),
        (["--task", "classify"], "is there to detect, and --task says classify"),
        (["--output", "output1"], "has no output `output1`; it has `output0`"),
        (["--softmax"], "--softmax has no meaning"),
        (["--no-softmax"], "--no-softmax has no meaning"),
        (["--native-map"], "--native-map has no meaning"),
        (["--resize", "stretch", "--pad-value", "9"], "--pad-value has no meaning with --resize stretch"),
    ],
)
def test_a_detector_of_ultralytics_refuses_what_it_does_not_use(
    options: list[str], said: str, yolo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused(capsys, yolo, options, said)


def test_detectors_options_are_refused_for_a_plain_classifier(
    classifier: Path, told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused(capsys, classifier, [*told, "--max-detections", "9"], "--max-detections has no meaning")


def test_what_the_file_is_for_may_be_told_as_well(vit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert adopt(capsys, vit, "--task", "classify", "--output", "logits", "--softmax")[0] == 0


def test_a_detr_answers_in_its_logits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = ("logits", "pred_boxes")
    path = foreign.hugging_face(foreign.Detr(4), tmp_path / "detr", NAMES, PREPROCESSOR, outputs)
    assert_refused(
        capsys, path, ["--output", "pred_boxes"], "answers in `logits`, and --output says `pred_box"
    )


class _Two(nn.Module):
    """A classifier of YOLOv5 behind an output that is not its answer."""

    def __init__(self) -> None:
        super().__init__()
        self.network = foreign.Classifier(3)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return images.mean((2, 3)), self.network(images)


def test_the_output_of_a_file_of_ultralytics_can_be_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = foreign.export(
        _Two(),
        tmp_path / "two.onnx",
        (torch.rand(1, 3, 32, 32),),
        ["images"],
        ["features", "answer"],
        metadata={"stride": 32, "names": dict(enumerate(NAMES))},
    )
    code, out, err = adopt(capsys, path, "--output", "answer", "--task", "classify")
    assert code == 0, err
    assert "logits of 3 classes" in out


def test_a_network_of_one_channel_has_no_order_of_colours(
    tmp_path: Path, labels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = foreign.Classifier(3, channels=1)
    path = foreign.export(network, tmp_path / "grey.onnx", (torch.rand(1, 1, 28, 28),), ["x"], ["y"])
    told = ["--labels", str(labels), "--mean", "0.1", "--std", "0.3", "--resize", "stretch"]
    assert_refused(capsys, path, [*told, "--bgr"], "--bgr has no meaning")


def test_a_filter_that_no_manifest_can_say_is_asked_for(
    vit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lanczos = json.dumps(PREPROCESSOR | {"resample": 1})
    (vit.parent / "preprocessor_config.json").write_text(lanczos, encoding="utf-8")
    assert_refused(capsys, vit, [], "Give --interpolation (bilinear, bicubic, nearest")
    assert adopt(capsys, vit, "--interpolation", "bicubic")[0] == 0
    manifest = manifest_file.read(vit.parent / "models" / "it" / "1")
    assert manifest.input.resize.interpolation == pb.INTERPOLATION_BICUBIC
