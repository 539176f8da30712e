"""`retinue-export adopt` on the command line: what it prints and asks for, and how its bundles are verified."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from google.protobuf import json_format
from onnx import numpy_helper
from retinue.v1 import manifest_pb2
from tests.unit.export import foreign
from tests.unit.export.adopting import NAMES, adopt, assert_refused, edited
from tests.unit.export.command import run

from retinue_server.bundle import manifest as manifest_file


def test_what_was_inferred_is_printed_with_where_it_is_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = foreign.ultralytics(foreign.YoloV8(3), tmp_path / "yolo.onnx", NAMES)
    code, out, _ = adopt(capsys, path)
    assert code == 0
    lines = {line.strip().split("  ")[0]: line for line in out.splitlines()}
    assert "64x64" in lines["size"]
    assert "the graph" in lines["size"]
    assert "3 (cat, dog, mug)" in lines["labels"]
    assert "its metadata" in lines["labels"]
    assert "letterbox" in lines["resize"]
    assert "Ultralytics' rule" in lines["resize"]
    assert "without antialiasing" in out
    assert "differences from the original" in out


def test_all_that_is_missing_is_asked_for_at_once(
    classifier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = adopt(capsys, classifier)
    assert code == 2
    assert "32x32" in out
    for option in ("--mean and --std", "--resize", "--labels FILE"):
        assert option in err
    assert "--size" not in err


def test_a_folder_of_hugging_face_without_its_json_files_asks_for_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = foreign.hugging_face(foreign.Classifier(3), tmp_path / "vit", NAMES, None)
    (path.parent / "config.json").unlink()
    code, out, err = adopt(capsys, path)
    assert code == 2
    assert "--preprocessor" in out
    assert "--config" in out
    for option in ("--size", "--mean and --std", "--resize", "--labels"):
        assert option in err


def test_json_files_may_lie_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = foreign.hugging_face(foreign.Classifier(3), tmp_path / "vit", NAMES, None)
    moved = tmp_path / "somewhere.json"
    (path.parent / "config.json").rename(moved)
    size_and_levels = ["--size", "32", "--mean", "0,0,0", "--std", "1,1,1", "--resize", "stretch"]
    assert adopt(capsys, path, "--config", str(moved), *size_and_levels)[0] == 0


def test_a_repository_of_the_hub_has_them_above_its_onnx_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    levels = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "do_normalize": True}
    path = foreign.hugging_face(foreign.Classifier(3), tmp_path / "vit", NAMES, {"size": 32, **levels})
    moved = path.parent / "onnx" / "model.onnx"
    moved.parent.mkdir()
    path.rename(moved)
    assert adopt(capsys, moved)[0] == 0


def test_a_size_that_is_none_is_refused_whoever_made_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = foreign.Classifier(3, probabilities=True)
    path = foreign.ultralytics(network, tmp_path / "classify.onnx", NAMES, "classify", dynamic=True)
    assert_refused(capsys, path, ["--size", "large"], "--size large is no size")


def test_thresholds_that_mean_nothing_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = foreign.ultralytics(foreign.EndToEnd(3), tmp_path / "yolov10.onnx", NAMES, end2end=True)
    assert_refused(capsys, path, ["--iou-threshold", "0.5"], "--iou-threshold has no meaning")
    path = foreign.ultralytics(foreign.Suppressed(3), tmp_path / "nms.onnx", NAMES, args={"nms": True})
    assert_refused(capsys, path, ["--score-threshold", "0.1"], "drops what scores less than 0.25")


# Verify


def test_an_adopted_bundle_is_verified_with_the_file_it_was_made_of(
    classifier: Path, told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert adopt(capsys, classifier, *told, "--bgr")[0] == 0
    bundle = str(classifier.parent / "models" / "it")
    code, out, err = run(capsys, "verify", bundle, "--adopted", str(classifier))
    assert code == 0, err
    assert "differences from the original" in out
    assert "plain.onnx itself" in out


def test_an_adopted_detector_is_verified_likewise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = foreign.ultralytics(foreign.YoloV8(3), tmp_path / "yolo.onnx", NAMES)
    assert adopt(capsys, path, "--iou-threshold", "0.3")[0] == 0
    bundle = tmp_path / "models" / "it"
    assert run(capsys, "verify", str(bundle), "--adopted", str(path))[0] == 0

    def change(model: onnx.ModelProto) -> None:
        (offset,) = [tensor for tensor in model.graph.initializer if tensor.name == "detections.head.half"]
        offset.CopyFrom(numpy_helper.from_array(np.array(0.51, np.float32), offset.name))

    edited(bundle / "1" / "model.onnx", change)
    manifest = bundle / "1" / "manifest.json"
    old = json_format.Parse(manifest.read_text(), manifest_pb2.ModelManifest())
    old.sha256 = manifest_file.file_sha256(bundle / "1" / "model.onnx")
    manifest.write_text(json_format.MessageToJson(old))
    code, _, err = run(capsys, "verify", str(bundle), "--adopted", str(path))
    assert code == 1
    assert "Output `boxes` differs from the original" in err


def test_an_adopted_bundle_is_inspected_as_one(
    classifier: Path, told: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert adopt(capsys, classifier, *told)[0] == 0
    page = tmp_path / "page.html"
    code, out, _ = run(capsys, "inspect", str(tmp_path / "models" / "it"), "--html", str(page))
    assert code == 0
    assert "onnx:plain.onnx" in out
    assert "differences from the original" in out
    assert "Parity with the original" in page.read_text()


def test_without_that_file_verify_says_what_it_needs(
    classifier: Path, told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert adopt(capsys, classifier, *told)[0] == 0
    code, _, err = run(capsys, "verify", str(classifier.parent / "models" / "it"))
    assert code == 2
    assert "its hash and manifest hold" in err
    assert "--adopted plain.onnx" in err


def test_another_file_does_not_verify(
    classifier: Path, told: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert adopt(capsys, classifier, *told)[0] == 0
    other = foreign.export(
        foreign.Classifier(3, seed=1), tmp_path / "other.onnx", (torch.rand(1, 3, 32, 32),), ["x"], ["y"]
    )
    code, _, err = run(capsys, "verify", str(tmp_path / "models" / "it"), "--adopted", str(other))
    assert code == 2
    assert "but the bundle was made of a file with" in err
