"""What the server answers with adopted files equals what those files say of the same photos."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tests.calls import Connection, connected, encoded
from tests.server_process import running_server
from tests.unit.export import foreign

from retinue_export import cli
from retinue_server.vision.resize import Frame, frame_for
from retinue_server.vision.spec import InputSpec, ResizeMode

NAMES = ["cat", "dog", "mug"]
PHOTOS = ("chelsea", "coffee", "rocket")
SIDE = 64
THRESHOLD = 0.25
LETTERBOX = InputSpec(
    height=SIDE,
    width=SIDE,
    grey=False,
    resize_mode=ResizeMode.LETTERBOX,
    resample=Image.Resampling.BILINEAR,
    pad_value=114,
)

Found = list[tuple[int, float, NDArray[np.float64]]]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The foreign files: a YOLOv8 detector of Ultralytics', and a classifier of Hugging Face's."""
    folder = tmp_path_factory.mktemp("foreign")
    preprocessor = {
        "size": {"shortest_edge": 72},
        "crop_size": {"height": 64, "width": 64},
        "do_center_crop": True,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.25, 0.25, 0.25],
        "resample": 3,
    }
    return {
        "yolo": foreign.ultralytics(foreign.YoloV8(3), folder / "yolov8.onnx", NAMES),
        "vit": foreign.hugging_face(foreign.Classifier(3), folder / "vit", NAMES, preprocessor),
    }


@pytest.fixture(scope="module")
def connection(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    """A server on the bundles that they become."""
    models = tmp_path_factory.mktemp("models")
    for name, path in files.items():
        with pytest.raises(SystemExit) as ended:
            cli.main(["adopt", str(path), "--name", name, "--out", str(models)])
        assert ended.value.code == 0
    with running_server(models) as server, connected(server.grpc_address) as connected_to:
        yield connected_to


def overlap(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    sides = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    common = float(sides.clip(0).prod())
    return common / float((first[2:] - first[:2]).prod() + (second[2:] - second[:2]).prod() - common)


def detected(path: Path, photo: Image.Image, iou_threshold: float) -> Found:
    """As Ultralytics predicts, but with Pillow's filter: letterbox, best class of each box, suppression, clipping."""
    frame = frame_for(*photo.size, LETTERBOX)
    left, top, right, bottom = frame.valid
    canvas = Image.new("RGB", (SIDE, SIDE), (114, 114, 114))
    canvas.paste(photo.resize((right - left, bottom - top), Image.Resampling.BILINEAR), (left, top))
    pixels = (np.asarray(canvas).transpose(2, 0, 1)[np.newaxis] / 255).astype(np.float32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"images": pixels})
    found: Found = []
    for x, y, width, height, *scores in np.asarray(answer[0], np.float64).T:
        best = int(np.argmax(scores))
        if scores[best] >= THRESHOLD:
            found.append(
                (best, scores[best], np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2]))
            )
    kept: Found = []
    for one in sorted(found, key=lambda entry: -entry[1]):
        if all(one[0] != other[0] or overlap(one[2], other[2]) <= iou_threshold for other in kept):
            kept.append(one)
    placed = [(kind, score, _to_photo(box, frame)) for kind, score, box in kept]
    return [entry for entry in placed if entry[2][0] < entry[2][2] and entry[2][1] < entry[2][3]]


def _to_photo(box: NDArray[np.float64], frame: Frame) -> NDArray[np.float64]:
    moved = (box - [frame.offset_x, frame.offset_y] * 2) / ([frame.scale_x, frame.scale_y] * 2)
    placed: NDArray[np.float64] = moved.clip(0, [frame.original_width, frame.original_height] * 2)
    return placed


@pytest.mark.parametrize("iou_threshold", [0.7, 0.2])
def test_an_adopted_detector_finds_in_photos_what_its_file_finds(
    iou_threshold: float, connection: Connection, files: dict[str, Path], photos: dict[str, Path]
) -> None:
    response = connection.detect(
        *(encoded(photos[name].read_bytes()) for name in PHOTOS),
        model="yolo",
        iou_threshold=iou_threshold,
    )
    total = 0
    for name, outcome in zip(PHOTOS, response.outcomes, strict=True):
        with Image.open(photos[name]) as photo:
            expected = detected(files["yolo"], photo.convert("RGB"), iou_threshold)
        served = [
            (one.class_id, one.score, (one.box.x_min, one.box.y_min, one.box.x_max, one.box.y_max))
            for one in outcome.result.detections
        ]
        assert [kind for kind, _, _ in served] == [kind for kind, _, _ in expected]
        for (_, score, box), (_, wanted, wanted_box) in zip(served, expected, strict=True):
            assert abs(score - wanted) < 1e-3
            np.testing.assert_allclose(box, wanted_box, atol=0.5)
        total += len(served)
    assert total > len(PHOTOS)


def test_an_adopted_classifier_answers_photos_as_its_file_does(
    connection: Connection, files: dict[str, Path], photos: dict[str, Path]
) -> None:
    response = connection.classify(
        *(encoded(photos[name].read_bytes()) for name in PHOTOS), model="vit", top_k=3
    )
    session = onnxruntime.InferenceSession(files["vit"], providers=["CPUExecutionProvider"])
    answers = []
    for name, outcome in zip(PHOTOS, response.outcomes, strict=True):
        with Image.open(photos[name]) as photo:
            scale = 72 / min(photo.size)
            small = photo.convert("RGB").resize(
                (int(photo.width * scale), int(photo.height * scale)), Image.Resampling.BICUBIC
            )
        left, top = round((small.width - 64) / 2), round((small.height - 64) / 2)
        pixels = np.asarray(small.crop((left, top, left + 64, top + 64))) / 255
        prepared = ((pixels - 0.5) / 0.25).astype(np.float32).transpose(2, 0, 1)[np.newaxis]
        (logits,) = session.run(None, {"pixel_values": prepared})
        expected = torch.from_numpy(logits).softmax(1)[0].numpy()
        served = np.empty(3)
        for score in outcome.result.classes:
            assert score.label == NAMES[score.class_id]
            served[score.class_id] = score.score
        np.testing.assert_allclose(served, expected, atol=0.02)
        answers.append(served)
    assert np.ptp(answers, axis=0).max() > 0.1
