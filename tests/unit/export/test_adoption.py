"""Foreign files become bundles that answer what the file answers, decoded as its exporter documents it."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from retinue.v1 import manifest_pb2 as pb
from tests.unit.export import foreign
from torch import nn

from retinue_export import inputs, nms, parity
from retinue_export.adoption import adopted, reading
from retinue_export.adoption.facts import Facts, Task, Told
from retinue_export.errors import ExportError, ParityError
from retinue_export.nms import Suppression
from retinue_server.bundle import manifest as manifest_file
from retinue_server.vision.resize import frame_for
from retinue_server.vision.spec import InputSpec, ResizeMode

Array = NDArray[np.generic]
Found = list[tuple[int, float, NDArray[np.float32]]]

NAMES = ["cat", "dog", "mug"]
PREPROCESSOR = {
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_processor_type": "ViTImageProcessor",
    "image_std": [0.2, 0.25, 0.3],
    "resample": 2,
    "rescale_factor": 1 / 255,
    "size": {"height": 64, "width": 64},
}


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.txt"
    path.write_text("\n".join(NAMES) + "\n")
    return path


@pytest.fixture
def plain(labels: Path) -> Told:
    """What must be told of a file that says nothing of itself."""
    return Told(labels=labels, mean="0,0,0", std="1,1,1", resize=ResizeMode.STRETCH)


def adopt(path: Path, told: Told | None = None) -> Path:
    """The version folder of the bundle that a file becomes."""
    told = told or Told()
    file = reading.read(path)
    facts = Facts(path.name, told)
    layout = adopted.layout_of(file, told)
    adopted.learn(file, layout, facts)
    understood = adopted.understand(file, layout, facts)
    return adopted.build(understood, "adopted", path.parent / "models", 1, lambda _stage: None)


def answers(folder: Path, images: NDArray[np.uint8]) -> Mapping[str, Array]:
    """What a bundle answers to a batch."""
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    manifest = manifest_file.read(folder)
    fed: dict[str, Array] = {"images": images}
    if manifest.detect.adjustable_thresholds:
        detect = manifest.detect
        suppression = Suppression(detect.max_detections, detect.min_score, detect.nms_iou_threshold)
        fed |= nms.thresholds(suppression, len(images))
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, fed), strict=True))


def original(path: Path, pixels: NDArray[np.float32]) -> list[Array]:
    """What the foreign file answers to each of float32 [N,...], one at a time: its outputs, [N,...] each."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    fed = session.get_inputs()[0].name
    extra = {value.name: np.ones((1, 64, 64), np.int64) for value in session.get_inputs()[1:]}
    rows = [session.run(None, {fed: pixels[number : number + 1], **extra}) for number in range(len(pixels))]
    return [np.concatenate(parts) for parts in zip(*rows, strict=True)]


def photos(folder: Path) -> NDArray[np.uint8]:
    return inputs.photos(manifest_file.input_spec(manifest_file.read(folder)))[:7]


def levels(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """float32 [N,3,H,W] in [0, 1]."""
    return (images.transpose(0, 3, 1, 2) / 255).astype(np.float32)


def rows(batch: Mapping[str, Array], number: int) -> Found:
    """Class, score and box of each detection of an image."""
    parts = (batch[name][number] for name in ("classes", "scores", "boxes"))
    return [(int(kind), float(score), box) for kind, score, box in zip(*parts, strict=True) if score > 0]


def overlap(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Intersection over union of two x1,y1,x2,y2."""
    sides = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    common = float(sides.clip(0).prod())
    union = float((first[2:] - first[:2]).prod() + (second[2:] - second[:2]).prod()) - common
    return common / union if union > 0 else 0.0


def suppressed(found: Found, threshold: float) -> Found:
    """The best of each class, one after the other, without what overlaps with a better one."""
    kept: Found = []
    for one in sorted(found, key=lambda entry: -entry[1]):
        if all(one[0] != other[0] or overlap(one[2], other[2]) <= threshold for other in kept):
            kept.append(one)
    return kept


def assert_same(actual: Found, expected: Found) -> None:
    order = [(kind, round(score, 4)) for kind, score, _ in expected]
    assert [(kind, round(score, 4)) for kind, score, _ in actual] == order
    for (_, score, box), (_, wanted, wanted_box) in zip(actual, expected, strict=True):
        assert abs(score - wanted) < 1e-4
        np.testing.assert_allclose(box, wanted_box, atol=1e-2)


# YOLO


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


def test_finished_detections_are_taken_as_they_are(tmp_path: Path) -> None:
    path = foreign.ultralytics(foreign.EndToEnd(3), tmp_path / "yolov10.onnx", NAMES, end2end=True)
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
    told = Told(task=Task.DETECT, labels=plain.labels, mean=plain.mean, std=plain.std, resize=plain.resize)
    folder = adopt(path, told)
    images = photos(folder)
    (dense,) = original(path, levels(images))
    assert_same(rows(answers(folder, images), 0), suppressed(decode_v8(dense[0], 0.05), 0.7))


# Hugging Face


def normalised(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """As PREPROCESSOR says."""
    mean, std = (np.array(PREPROCESSOR[key]).reshape(3, 1, 1) for key in ("image_mean", "image_std"))
    return ((images.transpose(0, 3, 1, 2) / 255 - mean) / std).astype(np.float32)


def test_an_image_classifier_of_hugging_face_is_prepared_as_its_files_say(tmp_path: Path) -> None:
    path = foreign.hugging_face(foreign.Classifier(3), tmp_path / "vit", NAMES, PREPROCESSOR)
    folder = adopt(path)
    images = photos(folder)
    (logits,) = original(path, normalised(images))
    powers = np.exp(np.asarray(logits, np.float64) - logits.max(axis=1, keepdims=True))
    expected = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(answers(folder, images)["probabilities"], expected, atol=1e-5)
    assert np.ptp(expected, axis=0).max() > 0.1
    manifest = manifest_file.read(folder)
    assert list(manifest.labels) == NAMES
    assert manifest.input.resize.mode == pb.RESIZE_MODE_STRETCH
    assert manifest.input.resize.interpolation == pb.INTERPOLATION_BILINEAR


def test_classes_that_do_not_exclude_each_other_have_probabilities_of_their_own(tmp_path: Path) -> None:
    path = foreign.hugging_face(foreign.Classifier(3), tmp_path / "vit", NAMES, PREPROCESSOR)
    config = {"id2label": dict(enumerate(NAMES)), "problem_type": "multi_label_classification"}
    (path.parent / "config.json").write_text(json.dumps(config))
    folder = adopt(path)
    images = photos(folder)
    (logits,) = original(path, normalised(images))
    expected = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    np.testing.assert_allclose(answers(folder, images)["probabilities"], expected, atol=1e-5)


def boxes_in_pixels(boxes: Array, number: int) -> NDArray[np.float32]:
    x, y, width, height = np.asarray(boxes, np.float32)[number].T * 64
    return np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], axis=1)


def test_detr_gives_each_query_its_best_class_but_none_for_no_object(tmp_path: Path) -> None:
    path = foreign.hugging_face(
        foreign.Detr(4), tmp_path / "detr", NAMES, PREPROCESSOR, ("logits", "pred_boxes")
    )
    folder = adopt(path)
    images = photos(folder)
    logits, boxes = original(path, normalised(images))
    powers = np.exp(np.asarray(logits, np.float64))
    chances = (powers / powers.sum(axis=2, keepdims=True))[..., :3]
    together = answers(folder, images)
    for number in range(len(images)):
        pixels = boxes_in_pixels(boxes, number)
        expected = [
            (int(chance.argmax()), float(chance.max()), box)
            for chance, box in zip(chances[number], pixels, strict=True)
            if chance.max() > 0.05
        ]
        assert expected
        assert_same(rows(together, number), sorted(expected, key=lambda entry: -entry[1]))
    assert manifest_file.read(folder).detect.default_score_threshold == 0.5


def test_relatives_of_detr_without_that_class_give_the_best_pairs(tmp_path: Path) -> None:
    path = foreign.hugging_face(
        foreign.Detr(3), tmp_path / "rt-detr", NAMES, PREPROCESSOR, ("logits", "pred_boxes")
    )
    folder = adopt(path)
    images = photos(folder)
    logits, boxes = original(path, normalised(images))
    together = answers(folder, images)
    for number in range(len(images)):
        pixels = boxes_in_pixels(boxes, number)
        scores = 1 / (1 + np.exp(-np.asarray(logits[number], np.float64)))
        pairs = [
            (kind, float(scores[query, kind]), pixels[query]) for query in range(12) for kind in range(3)
        ]
        best = sorted(pairs, key=lambda entry: -entry[1])[:12]
        assert_same(rows(together, number), [entry for entry in best if entry[1] > 0.05])


@pytest.mark.parametrize("native", [False, True])
def test_a_segformer_is_scaled_before_the_best_class_is_taken(native: bool, tmp_path: Path) -> None:
    path = foreign.hugging_face(foreign.Segmenter(3), tmp_path / "segformer", NAMES, PREPROCESSOR)
    folder = adopt(path, Told(native_map=native))
    images = photos(folder)
    (logits,) = original(path, normalised(images))
    layers = np.asarray(logits, np.float32)
    if not native:  # Pillow's bilinear filter, when it enlarges, is the one that does not align corners
        layers = np.stack(
            [
                [Image.fromarray(layer).resize((64, 64), Image.Resampling.BILINEAR) for layer in one]
                for one in layers
            ]
        )
    class_map = answers(folder, images)["class_map"]
    assert class_map.dtype == np.uint8
    assert class_map.shape == (7, *((16, 16) if native else (64, 64)))
    assert np.mean(class_map != layers.argmax(axis=1)) < 1e-3
    assert len(np.unique(class_map)) == 3


# Plain files


class _ChannelsLast(nn.Module):
    """A classifier that takes [N,H,W,C]."""

    def __init__(self) -> None:
        super().__init__()
        self.network = foreign.Classifier(3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(images.permute(0, 3, 1, 2))
        return logits


@pytest.mark.parametrize("bgr", [False, True])
def test_a_plain_file_with_channels_last_takes_the_colours_in_the_order_told(
    bgr: bool, tmp_path: Path, labels: Path
) -> None:
    path = foreign.export(
        _ChannelsLast(), tmp_path / "plain.onnx", (torch.rand(1, 24, 32, 3),), ["x"], ["y"], {"x": {0: "n"}}
    )
    told = Told(labels=labels, mean="0.1,0.2,0.3", std="0.2,0.3,0.4", resize=ResizeMode.STRETCH, bgr=bgr)
    folder = adopt(path, told)
    images = photos(folder)
    assert images.shape[1:] == (24, 32, 3)
    ordered = images[..., ::-1] if bgr else images
    pixels = ((ordered / 255 - [0.1, 0.2, 0.3]) / [0.2, 0.3, 0.4]).astype(np.float32)
    (logits,) = original(path, pixels)
    expected = torch.from_numpy(logits).softmax(1).numpy()
    np.testing.assert_allclose(answers(folder, images)["probabilities"], expected, atol=1e-5)


def test_a_plain_grey_classifier_is_adopted_with_one_mean(tmp_path: Path, labels: Path) -> None:
    path = foreign.export(
        foreign.Classifier(3, channels=1), tmp_path / "grey.onnx", (torch.rand(1, 1, 28, 28),), ["x"], ["y"]
    )
    folder = adopt(path, Told(labels=labels, mean="0.1307", std="0.3081", resize=ResizeMode.STRETCH))
    assert manifest_file.read(folder).input.colour == pb.COLOUR_GREY


@pytest.mark.parametrize(("opset", "becomes"), [(9, 13), (11, 13), (13, 13), (17, 17)])
def test_the_operator_set_is_raised_only_where_it_must_be(
    opset: int, becomes: int, tmp_path: Path, plain: Told
) -> None:
    path = foreign.export(
        foreign.Classifier(3), tmp_path / "old.onnx", (torch.rand(1, 3, 32, 32),), ["x"], ["y"], opset=opset
    )
    folder = adopt(path, plain)
    assert manifest_file.read(folder).opset == becomes
    model = onnx.load(folder / "model.onnx")
    assert [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")] == [becomes]


def test_a_file_of_the_dynamo_exporter_is_freed_of_its_batch(tmp_path: Path, plain: Told) -> None:
    path = tmp_path / "dynamo.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            foreign.Classifier(3).eval(), (torch.rand(1, 3, 32, 32),), dynamo=True, verbose=False
        )
    assert program is not None
    program.save(str(path))
    folder = adopt(path, plain)
    images = photos(folder)
    (logits,) = original(path, levels(images))
    expected = torch.from_numpy(logits).softmax(1).numpy()
    np.testing.assert_allclose(answers(folder, images)["probabilities"], expected, atol=1e-5)


class _Enlarged(nn.Module):
    """A segmenter that scales its logits itself, to a size that is constant once it is exported."""

    def __init__(self) -> None:
        super().__init__()
        self.network = foreign.Segmenter(3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.interpolate(self.network(images), size=images.shape[-2:], mode="bilinear")


def test_a_segmenter_that_scales_to_a_fixed_batch_is_freed(tmp_path: Path, plain: Told) -> None:
    path = foreign.export(
        _Enlarged(), tmp_path / "torchvision.onnx", (torch.rand(1, 3, 32, 32),), ["x"], ["out"]
    )
    folder = adopt(path, plain)
    images = photos(folder)
    (logits,) = original(path, levels(images))
    assert np.mean(answers(folder, images)["class_map"] != logits.argmax(axis=1)) < 1e-3


class _Mixing(nn.Module):
    """Turns the batch over into the features, which only works for the batch that it was exported for."""

    def __init__(self) -> None:
        super().__init__()
        self.network = foreign.Classifier(3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.network.layers[:4](images)
        logits: torch.Tensor = self.network.layers[4](features.view(2, 4).t().reshape(1, 8))
        return logits


def test_a_file_that_cannot_be_freed_of_its_batch_is_refused_with_advice(tmp_path: Path, plain: Told) -> None:
    path = foreign.export(_Mixing(), tmp_path / "mixing.onnx", (torch.rand(1, 3, 32, 32),), ["x"], ["y"])
    with pytest.raises(
        ExportError, match="for several images at once than for one: export it again with a dyn"
    ) as raised:
        adopt(path, plain)
    assert raised.value.exit_code == 2
    assert not (tmp_path / "models").exists()


def test_a_wrapped_graph_that_answers_something_else_is_never_written(
    tmp_path: Path, plain: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = foreign.export(
        foreign.Classifier(3), tmp_path / "a.onnx", (torch.rand(1, 3, 32, 32),), ["x"], ["y"]
    )
    monkeypatch.setattr(parity, "TOLERANCES", {"probabilities": -1.0})
    with pytest.raises(ParityError, match="differs from the original"):
        adopt(path, plain)
    assert not (tmp_path / "models").exists()


def test_a_file_is_adopted_whose_names_are_those_of_the_contract(tmp_path: Path, plain: Told) -> None:
    path = foreign.export(
        foreign.Classifier(3), tmp_path / "a.onnx", (torch.rand(1, 3, 32, 32),), ["images"], ["probabilities"]
    )
    adopt(path, plain)
