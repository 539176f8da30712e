"""What the server answers equals what PyTorch answers on the same files."""

import io
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torchvision
from PIL import Image
from retinue.v1 import manifest_pb2
from retinue.v1 import vision_service_pb2 as pb
from tests.calls import Connection, connected, encoded
from tests.pictures import encode
from tests.server_process import ROOT, ServerProcess

from retinue_export import fashion_mnist, inputs, reference, weight_files
from retinue_export.parity import Runner
from retinue_server.bundle import manifest as manifest_file
from retinue_server.vision.resize import Frame
from retinue_server.vision.spec import InputSpec

PHOTOS = ("chelsea", "coffee", "astronaut", "rocket", "china", "flower")
# Domestic cats, in the words of ImageNet.
CATS = {"tabby", "tiger cat", "Persian cat", "Siamese cat", "Egyptian cat"}
SEEN: dict[str, set[str]] = {
    "chelsea": CATS,
    "coffee": {"espresso", "cup", "coffee mug"},
    "china": {"palace"},
}
FASHION_IMAGES = 100
SCENES = 12

Uint8 = npt.NDArray[np.uint8]
Float = npt.NDArray[np.floating]


@pytest.fixture(scope="module")
def connection(server: ServerProcess) -> Iterator[Connection]:
    with connected(server.grpc_address) as connection:
        yield connection


@cache
def _folder(name: str) -> Path:
    versions = list((ROOT / "models" / name).iterdir())
    return max(versions, key=lambda folder: int(folder.name))


@cache
def _manifest(name: str) -> manifest_pb2.ModelManifest:
    return manifest_file.read(_folder(name))


@cache
def _spec(name: str) -> InputSpec:
    return manifest_file.input_spec(_manifest(name))


@cache
def _module(name: str) -> Runner:
    """The PyTorch module that a bundle was exported from, with the bundle's weights."""
    return reference.load(_folder(name), _manifest(name)).run


def _probabilities(response: pb.ClassifyResponse, classes: int) -> Float:
    """float32 [N,K] by class id."""
    table = np.full((len(response.outcomes), classes), np.nan, np.float32)
    for row, outcome in zip(table, response.outcomes, strict=True):
        assert outcome.HasField("result"), outcome.error
        for score in outcome.result.classes:
            row[score.class_id] = score.score
    return table


# MobileNetV2 on photos


@pytest.fixture(scope="module")
def served_photos(connection: Connection, photos: dict[str, Path]) -> dict[str, Float]:
    """What the server says of each photo: float32 [1000]."""
    response = connection.classify(
        *(encoded(photos[name].read_bytes()) for name in PHOTOS), model="mobilenet-v2", top_k=1000
    )
    return dict(zip(PHOTOS, _probabilities(response, 1000), strict=True))


@pytest.fixture(scope="module")
def torchvision_classifier(mobilenet_weights: Path) -> torch.nn.Module:
    """torchvision's MobileNetV2 with torchvision's weights, untouched by any export."""
    network = torchvision.models.mobilenet_v2(weights=None)
    network.load_state_dict(weight_files.read(mobilenet_weights))
    return network.eval()


@pytest.mark.parametrize("name", PHOTOS)
def test_a_photo_is_classified_as_by_torchvision_with_its_own_transforms(
    name: str,
    served_photos: dict[str, Float],
    photos: dict[str, Path],
    torchvision_classifier: torch.nn.Module,
) -> None:
    """torchvision resizes all of a photo and the server only what the crop keeps: at most one grey level apart."""
    transforms = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.transforms()
    with Image.open(photos[name]) as photo, torch.no_grad():
        pixels = transforms(photo.convert("RGB")).unsqueeze(0)
        expected = torchvision_classifier(pixels).softmax(dim=1)[0].numpy()
    np.testing.assert_allclose(served_photos[name], expected, rtol=0, atol=0.02)
    assert served_photos[name].argmax() == expected.argmax()
    # As far apart as two different photos are it would not show that they are the same.
    others = [served_photos[other] for other in PHOTOS if other != name]
    assert min(np.abs(expected - other).max() for other in others) > 0.1


@pytest.mark.parametrize("name", PHOTOS)
def test_a_photo_is_classified_as_by_pytorch_on_the_same_pixels(
    name: str, served_photos: dict[str, Float], photos: dict[str, Path]
) -> None:
    with Image.open(photos[name]) as photo:
        pixels = inputs.prepared([photo], _spec("mobilenet-v2"))
    (expected,) = _module("mobilenet-v2")(pixels)["probabilities"]
    np.testing.assert_allclose(served_photos[name], expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", SEEN)
def test_a_photo_is_recognised(name: str, connection: Connection, photos: dict[str, Path]) -> None:
    (outcome,) = connection.classify(
        encoded(photos[name].read_bytes()), model="mobilenet-v2", top_k=3
    ).outcomes
    labels = {score.label for score in outcome.result.classes}
    assert labels & SEEN[name], labels


# Retinue's own models on the images that they were measured on


@pytest.mark.usefixtures("fashion_mnist_data")
def test_fashion_items_are_classified_as_by_pytorch(connection: Connection) -> None:
    data = fashion_mnist.load("test")
    items = [Image.fromarray(image) for image in data.images[:FASHION_IMAGES]]
    files = [encode(item) for item in items]
    expected = _module("fashion-cnn")(inputs.prepared(items, _spec("fashion-cnn")))["probabilities"]

    response = connection.classify(
        *map(encoded, files),
        model="fashion-cnn",
        top_k=len(fashion_mnist.CLASSES),
    )
    served = _probabilities(response, len(fashion_mnist.CLASSES))
    np.testing.assert_allclose(served, expected, rtol=0, atol=_tolerance("fashion-cnn", "probabilities"))
    right = served.argmax(axis=1) == data.labels[:FASHION_IMAGES]
    assert right.mean() > 0.85


def _tolerance(name: str, output: str) -> float:
    """What the bundle's certificate allows."""
    (entry,) = [entry for entry in _manifest(name).parity.outputs if entry.output == output]
    return float(entry.tolerance)


@pytest.fixture(scope="module")
def scenes(fashion_mnist_data: None) -> Sequence[Uint8]:
    """Generated scenes of several sizes, uint8 [H,W,3]."""
    return [scene.image for scene in inputs.test_scenes(SCENES)]


def _to_original(x: Float, y: Float, frame: Frame) -> tuple[Float, Float]:
    """Input pixels to the original's, clipped to it."""
    original_x = (x - frame.offset_x) / frame.scale_x
    original_y = (y - frame.offset_y) / frame.scale_y
    return original_x.clip(0, frame.original_width), original_y.clip(0, frame.original_height)


def _expected_detections(scene: Uint8) -> list[tuple[int, float, Float]]:
    """Class, score and box in the scene's pixels of what PyTorch detects, and a little more than is asked for."""
    pixels, frame = inputs.prepare_one(Image.fromarray(scene), _spec("fashion-detector"))
    answer = _module("fashion-detector")(pixels[np.newaxis])
    boxes, scores, classes = (answer[output][0] for output in ("boxes", "scores", "classes"))
    x, y = _to_original(boxes[:, 0::2], boxes[:, 1::2], frame)
    in_scene = np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], axis=1)
    return [
        (int(class_id), float(score), box)
        for class_id, score, box in zip(classes, scores, in_scene, strict=True)
        if score > 0
    ]


def test_items_are_detected_where_pytorch_detects_them(
    connection: Connection, scenes: Sequence[Uint8]
) -> None:
    threshold, margin = 0.1, 1e-3
    outcomes = connection.detect(
        *(encoded(encode(Image.fromarray(scene))) for scene in scenes),
        model="fashion-detector",
        score_threshold=threshold,
    ).outcomes
    found_in_all = 0
    for scene, outcome in zip(scenes, outcomes, strict=True):
        served = [
            (
                detection.class_id,
                detection.score,
                np.array(
                    [detection.box.x_min, detection.box.y_min, detection.box.x_max, detection.box.y_max]
                ),
            )
            for detection in outcome.result.detections
        ]
        expected = _expected_detections(scene)
        # Both ways round, but for scores so near the threshold that either side of it is right.
        _assert_all_found([one for one in expected if one[1] >= threshold + margin], served)
        _assert_all_found(served, expected)
        found_in_all += len(served)
    assert found_in_all >= 2 * SCENES


def _assert_all_found(
    wanted: Sequence[tuple[int, float, Float]], among: Sequence[tuple[int, float, Float]]
) -> None:
    for class_id, score, box in wanted:
        assert any(
            class_id == other_id and abs(score - other_score) < 1e-3 and np.abs(box - other_box).max() < 0.1
            for other_id, other_score, other_box in among
        ), (class_id, score, box)


@pytest.mark.parametrize("mask_size", [pb.MASK_SIZE_MODEL, pb.MASK_SIZE_ORIGINAL])
def test_pixels_get_the_class_that_pytorch_gives_them(
    mask_size: int, connection: Connection, scenes: Sequence[Uint8]
) -> None:
    outcomes = connection.segment(
        *(encoded(encode(Image.fromarray(scene))) for scene in scenes),
        model="fashion-segmenter",
        mask_format=pb.MASK_FORMAT_PNG,
        mask_size=mask_size,
    ).outcomes
    tolerance = _tolerance("fashion-segmenter", "class_map")
    covered = 0.0
    for scene, outcome in zip(scenes, outcomes, strict=True):
        with Image.open(io.BytesIO(outcome.result.png)) as png:
            served = np.asarray(png)
        expected = _expected_classes(scene, mask_size == pb.MASK_SIZE_ORIGINAL)
        assert served.shape == expected.shape
        assert np.mean(served != expected) <= tolerance
        covered += np.mean(served != 0)
    # The scenes have items, and they are seen.
    assert covered / SCENES > 0.1


def _expected_classes(scene: Uint8, original: bool) -> Uint8:
    """The class of each pixel of the model's map, or of the scene: that of the map's pixel under its centre."""
    spec = _spec("fashion-segmenter")
    pixels, frame = inputs.prepare_one(Image.fromarray(scene), spec)
    class_map: Uint8 = _module("fashion-segmenter")(pixels[np.newaxis])["class_map"][0].astype(np.uint8)
    if not original:
        return class_map
    rows, columns = class_map.shape
    y = ((np.arange(frame.original_height) + 0.5) * frame.scale_y + frame.offset_y) * rows / spec.height
    x = ((np.arange(frame.original_width) + 0.5) * frame.scale_x + frame.offset_x) * columns / spec.width
    return class_map[np.ix_(y.astype(int).clip(0, rows - 1), x.astype(int).clip(0, columns - 1))]
