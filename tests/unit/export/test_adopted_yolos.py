"""YOLO files become bundles that answer what the file answers, decoded as its exporter documents it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from retinue.v1 import manifest_pb2 as pb
from tests.unit.export import foreign
from tests.unit.export.adopting import NAMES
from tests.unit.export.adoptions import (
    Array,
    Found,
    adopt,
    answers,
    assert_same,
    levels,
    original,
    photos,
    rows,
    suppressed,
)

from retinue_export import parity
from retinue_export.adoption import adopted
from retinue_export.adoption.facts import Told
from retinue_export.errors import ExportError
from retinue_export.input_options import Task
from retinue_server.bundle import manifest as manifest_file
from retinue_server.vision.resize import frame_for
from retinue_server.vision.spec import InputSpec, ResizeMode


def decode_v8(answer: Array, threshold: float) -> Found:
    """[4+K,A]: centre, size and the scores of K classes, of which the best counts."""
    found: Found = []
    for x, y, width, height, *scores in np.asarray(answer, np.float32).T:
        best = int(np.argmax(scores))
        if scores[best] > threshold:
            box = np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2], np.float32)
            found.append((best, float(scores[best]), box))
    return found


def decode_v5(answer: Array, threshold: float) -> Found:
    """[A,5+K]: likewise, each class's score to be multiplied by that of an object at all."""
    table = np.asarray(answer, np.float32)
    return decode_v8(np.concatenate([table[:, :4], table[:, 5:] * table[:, 4:5]], axis=1).T, threshold)


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_yolov8_is_decoded_and_suppressed_whatever_batch_it_was_exported_for(
    dynamic: bool, tmp_path: Path
) -> None:
    path = foreign.ultralytics(foreign.YoloV8(3), tmp_path / "yolov8.onnx", NAMES, dynamic=dynamic)
    folder = adopt(path)
    images = photos(folder)
    (dense,) = original(path, levels(images))
    together = answers(folder, images)
    for number in range(len(images)):
        expected = suppressed(decode_v8(dense[number], 0.05), 0.7)
        assert len(expected) > 3
        assert_same(rows(together, number), expected)

    manifest = manifest_file.read(folder)
    assert list(manifest.labels) == NAMES
    assert manifest.task == pb.TASK_DETECT
    assert (manifest.input.height, manifest.input.width) == (64, 64)
    assert manifest.input.resize.mode == pb.RESIZE_MODE_LETTERBOX
    assert manifest.input.resize.pad_value == 114
    assert list(manifest.input.normalisation.deviation) == [1, 1, 1]
    assert manifest.detect.default_score_threshold == 0.25
    assert manifest.detect.adjustable_thresholds
    assert manifest.source.licence.startswith("AGPL-3.0")
    assert manifest.source.framework.startswith("pytorch")
    assert manifest.source.architecture == "onnx:yolov8.onnx"
    assert "detections" in manifest.parity.inputs


def test_a_yolov5_is_known_by_its_metadata_and_its_objectness_counts(tmp_path: Path) -> None:
    path = foreign.ultralytics(foreign.YoloV5(3), tmp_path / "yolov5.onnx", NAMES, None)
    folder = adopt(path)
    images = photos(folder)
    (dense,) = original(path, levels(images))
    together = answers(folder, images)
    for number in range(len(images)):
        expected = suppressed(decode_v5(dense[number], 0.05), 0.45)
        assert len(expected) > 3
        assert_same(rows(together, number), expected[:300])


def test_a_yolov5_of_one_class_is_not_taken_for_finished_detections(tmp_path: Path) -> None:
    path = foreign.ultralytics(foreign.YoloV5(1), tmp_path / "yolov5.onnx", ["cat"], None)
    folder = adopt(path)
    images = photos(folder)
    (dense,) = original(path, levels(images))
    assert_same(rows(answers(folder, images), 0), suppressed(decode_v5(dense[0], 0.05), 0.45))


def test_a_plain_yolov5_of_one_class_is_known_by_scores_where_finished_detections_have_classes(
    tmp_path: Path, plain: Told, labels: Path
) -> None:
    labels.write_text("cat\n")
    path = foreign.export(
        foreign.YoloV5(1), tmp_path / "bare.onnx", (torch.rand(1, 3, 64, 64),), ["images"], ["output0"]
    )
    folder = adopt(path, replace(plain, task=Task.DETECT, iou_threshold=0.45))
    images = photos(folder)
    (dense,) = original(path, levels(images))
    assert dense.shape[1] < 1000
    assert_same(rows(answers(folder, images), 0), suppressed(decode_v5(dense[0], 0.05), 0.45))


@pytest.mark.parametrize("classes", [2, 3])  # of two, an RT-DETR has as many columns
def test_finished_detections_are_taken_as_they_are(classes: int, tmp_path: Path) -> None:
    names = NAMES[:classes]
    path = foreign.ultralytics(foreign.EndToEnd(classes), tmp_path / "yolov10.onnx", names, end2end=True)
    folder = adopt(path)
    images = photos(folder)
    (finished,) = original(path, levels(images))
    together = answers(folder, images)
    for number in range(len(images)):
        expected = [(int(row[5]), float(row[4]), row[:4]) for row in finished[number] if row[4] > 0.05]
        assert expected
        assert_same(rows(together, number), expected)
    assert not manifest_file.read(folder).detect.adjustable_thresholds


@pytest.mark.parametrize("batch", [1, 4])
def test_built_in_suppression_is_replaced_by_one_for_any_batch(batch: int, tmp_path: Path) -> None:
    metadata = {
        "stride": 32,
        "names": dict(enumerate(NAMES)),
        "task": "detect",
        "imgsz": [64, 64],
        "args": {"batch": batch, "dynamic": batch > 1, "nms": True},
    }
    axes = {"images": {0: "batch", 2: "height", 3: "width"}, "output0": {0: "batch"}} if batch > 1 else None
    path = foreign.export(
        foreign.Suppressed(3, batch=batch),
        tmp_path / "with-nms.onnx",
        (torch.rand(batch, 3, 64, 64),),
        ["images"],
        ["output0"],
        axes,
        metadata,
    )
    folder = adopt(path)
    images = photos(folder)
    (finished,) = original(path, levels(images))
    together = answers(folder, images)
    for number in range(len(images)):
        expected = [(int(row[5]), float(row[4]), row[:4]) for row in finished[number] if row[4] > 0]
        assert expected
        assert_same(rows(together, number), expected)
    detect = manifest_file.read(folder).detect
    assert (detect.min_score, round(detect.nms_iou_threshold, 6)) == (0.25, 0.45)


def test_thresholds_and_rows_can_be_chosen(tmp_path: Path) -> None:
    path = foreign.ultralytics(foreign.YoloV8(3), tmp_path / "yolov8.onnx", NAMES)
    folder = adopt(path, Told(score_threshold=0.01, iou_threshold=0.3, max_detections=9))
    images = photos(folder)
    (dense,) = original(path, levels(images))
    assert_same(rows(answers(folder, images), 0), suppressed(decode_v8(dense[0], 0.01), 0.3)[:9])


def test_a_half_precision_file_is_rounded_where_it_rounds(tmp_path: Path) -> None:
    path = foreign.export(
        foreign.YoloV8(3).half(),
        tmp_path / "half.onnx",
        (torch.rand(1, 3, 64, 64).half(),),
        ["images"],
        ["output0"],
        metadata={"stride": 32, "names": dict(enumerate(NAMES)), "task": "detect", "imgsz": [64, 64]},
    )
    folder = adopt(path)
    manifest = manifest_file.read(folder)
    assert manifest.precision == pb.PRECISION_FP16
    differences = {entry.output: entry.max_difference for entry in manifest.parity.outputs}
    assert differences["scores"] < 1e-6  # without rounding they would differ by 100 times as much
    assert differences["boxes"] < 0.01
    allowed = {entry.output: entry.tolerance for entry in manifest.parity.outputs}
    assert allowed["boxes"] == pytest.approx(0.01 + 64 / 1024)
    assert verified(folder, path)


def verified(folder: Path, path: Path) -> bool:
    """Whether a bundle's answers are those of its file, by the tolerances of the certificate."""
    expected = adopted.reference(folder, manifest_file.read(folder), path)
    actual = parity.runner(parity.session((folder / "model.onnx").read_bytes()), expected.feeds)
    parity.check(parity.compare(expected.run, actual, expected.images, (1, 5), expected.tolerances))
    return True


def test_an_ultralytics_classifier_has_probabilities_already(tmp_path: Path) -> None:
    network = foreign.Classifier(3, probabilities=True)
    path = foreign.ultralytics(network, tmp_path / "classify.onnx", NAMES, "classify")
    folder = adopt(path)
    images = photos(folder)
    (expected,) = original(path, levels(images))
    np.testing.assert_allclose(answers(folder, images)["probabilities"], expected, atol=1e-6)
    resize = manifest_file.read(folder).input.resize
    assert (resize.mode, resize.shorter_side) == (pb.RESIZE_MODE_SHORTER_SIDE_CENTER_CROP, 64)


def wide_classifier(path: Path, **metadata: object) -> Path:
    network, example = foreign.Classifier(3, probabilities=True), (torch.rand(1, 3, 64, 128),)
    told = {"stride": 1, "names": dict(enumerate(NAMES)), **metadata}
    return foreign.export(network, path, example, ["images"], ["output0"], metadata=told)


def test_an_ultralytics_classifier_whose_sides_differ_stretches_images(tmp_path: Path) -> None:
    """Source: ultralytics, `classify_transforms` of `data/augment.py`: `Resize` to both sides."""
    path = wide_classifier(tmp_path / "wide.onnx", task="classify", imgsz=[64, 128])
    described = manifest_file.read(adopt(path)).input
    assert (described.height, described.width) == (64, 128)
    assert (described.resize.mode, described.resize.shorter_side) == (pb.RESIZE_MODE_STRETCH, 0)


def test_a_yolov5_classifier_whose_sides_differ_must_be_told_how_it_is_fed(tmp_path: Path) -> None:
    """Source: yolov5, `classify/predict.py`, which prepares squares only."""
    path = wide_classifier(tmp_path / "wide.onnx")
    with pytest.raises(ExportError, match="Give --resize"):
        adopt(path)
    folder = adopt(path, Told(resize=ResizeMode.STRETCH))
    assert manifest_file.read(folder).input.resize.mode == pb.RESIZE_MODE_STRETCH


def test_the_letterbox_has_the_size_and_place_of_ultralytics() -> None:
    """Source: ultralytics, `LetterBox` of `data/augment.py`, with `auto=False` as for exported files."""
    spec = InputSpec(
        height=384,
        width=640,
        grey=False,
        resize_mode=ResizeMode.LETTERBOX,
        resample=Image.Resampling.BILINEAR,
    )
    for width, height in np.random.default_rng(0).integers(20, 3000, (500, 2)).tolist():
        ratio = min(384 / height, 640 / width)
        new_width, new_height = round(width * ratio), round(height * ratio)
        left, top = round((640 - new_width) / 2 - 0.1), round((384 - new_height) / 2 - 0.1)
        assert frame_for(width, height, spec).valid == (left, top, left + new_width, top + new_height)


@pytest.mark.parametrize("task", ["segment", "pose", "obb", "semantic"])
def test_other_tasks_of_ultralytics_are_refused(task: str, tmp_path: Path) -> None:
    path = foreign.ultralytics(foreign.YoloV8(3), tmp_path / "other.onnx", NAMES, task)
    with pytest.raises(ExportError, match=f"task '{task}': only detect and classify"):
        adopt(path)


def test_a_yolo_without_metadata_is_known_by_its_columns(tmp_path: Path, plain: Told) -> None:
    path = foreign.export(
        foreign.YoloV8(3), tmp_path / "bare.onnx", (torch.rand(1, 3, 64, 64),), ["images"], ["output0"]
    )
    folder = adopt(path, replace(plain, task=Task.DETECT))
    images = photos(folder)
    (dense,) = original(path, levels(images))
    assert_same(rows(answers(folder, images), 0), suppressed(decode_v8(dense[0], 0.05), 0.7))
