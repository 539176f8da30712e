"""Classify, Detect and Segment answer what the picture shows, in the original picture's pixels."""

import io
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from retinue.v1 import vision_service_pb2 as pb
from tests import colour_bundles, pictures
from tests.calls import Connection, connected, encoded, flat, raw
from tests.colour_bundles import SIDE, rewrite_manifest
from tests.server_process import running_server

_RED, _GREEN, _BLUE = flat(255, 0, 0), flat(0, 255, 0), flat(0, 0, 255)
_RED_ID, _GREEN_ID, _BLUE_ID = range(3)
# Width and height.
_SIZES = [(8, 8), (20, 10), (10, 20), (640, 480), (1, 1), (3, 700), (999, 7)]

Box = tuple[float, float, float, float]


def _input(mode: str, **resize: object) -> dict[str, Any]:
    resize |= {"mode": f"RESIZE_MODE_{mode}", "interpolation": "INTERPOLATION_BILINEAR"}
    return {"height": SIDE, "width": SIDE, "colour": "COLOUR_RGB", "resize": resize}


_LETTERBOX = _input("LETTERBOX", pad_value=114)
_CENTRE_CROP = _input("SHORTER_SIDE_CENTER_CROP", shorter_side=SIDE)


@pytest.fixture(scope="module")
def geometry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    """A server of detectors and segmenters that resize in other ways than by stretching."""
    models = tmp_path_factory.mktemp("geometry")
    rewrite_manifest(colour_bundles.detector(models, "letterbox-detector"), input=_LETTERBOX)
    rewrite_manifest(colour_bundles.detector(models, "crop-detector"), input=_CENTRE_CROP)
    sizes = {"map_height": SIDE, "map_width": SIDE}
    for name, image, background in (
        ("background-segmenter", None, _RED_ID),
        ("letterbox-segmenter", _LETTERBOX, -1),
        ("crop-segmenter", _CENTRE_CROP, -1),
        ("crop-background-segmenter", _CENTRE_CROP, _RED_ID),
    ):
        bundle = colour_bundles.segmenter(models, name)
        rewrite_manifest(bundle, segment={**sizes, "background_class_id": background})
        if image is not None:
            rewrite_manifest(bundle, input=image)
    with running_server(models) as server, connected(server.grpc_address) as connection:
        yield connection


def _box(detection: pb.Detection) -> Box:
    box = detection.box
    return box.x_min, box.y_min, box.x_max, box.y_max


def _class_map(result: pb.Segmentation) -> npt.NDArray[np.uint8]:
    return np.frombuffer(result.raw, np.uint8).reshape(result.height, result.width)


def _areas(result: pb.Segmentation) -> dict[str, int]:
    return {area.label: area.area_pixels for area in result.areas}


def _cells(seed: int, scale_y: int, scale_x: int) -> tuple[Image.Image, npt.NDArray[np.uint8]]:
    """SIDE x SIDE cells of random colours, each of scale_y x scale_x pixels, and the class of each pixel."""
    classes = np.random.default_rng(seed).integers(0, 3, (SIDE, SIDE), np.uint8)
    pixels = np.array([pictures.RED, pictures.GREEN, pictures.BLUE], np.uint8)[classes]
    repeats = np.ones((scale_y, scale_x), np.uint8)
    return Image.fromarray(np.kron(pixels, repeats[..., np.newaxis])), np.kron(classes, repeats)


# Classify


def test_classes_come_in_the_order_of_the_images_most_probable_first(colour: Connection) -> None:
    response = colour.classify(_GREEN, _BLUE, _RED)
    assert (response.model, response.version) == ("colour-classifier", 1)
    first = [outcome.result.classes[0] for outcome in response.outcomes]
    assert [(score.class_id, score.label) for score in first] == [(1, "green"), (2, "blue"), (0, "red")]
    for outcome in response.outcomes:
        scores = [score.score for score in outcome.result.classes]
        # The default is 5, and the model has 3.
        assert len(scores) == 3
        assert scores == sorted(scores, reverse=True)
        assert sum(scores) == pytest.approx(1)


def test_probabilities_are_the_networks(colour: Connection) -> None:
    (outcome,) = colour.classify(flat(12, 10, 11)).outcomes
    expected = np.exp([12, 11, 10]) / np.exp([12, 11, 10]).sum()
    assert [score.label for score in outcome.result.classes] == ["red", "blue", "green"]
    assert [score.score for score in outcome.result.classes] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_top_k_classes_are_returned(top_k: int, colour: Connection) -> None:
    (outcome,) = colour.classify(flat(12, 10, 11), top_k=top_k).outcomes
    assert [score.label for score in outcome.result.classes] == ["red", "blue", "green"][:top_k]


@pytest.mark.parametrize(("min_score", "kept"), [(0, 3), (0.2, 2), (0.5, 1), (0.9, 0)])
def test_classes_below_min_score_are_left_out(min_score: float, kept: int, colour: Connection) -> None:
    # Probabilities 0.67, 0.24, 0.09.
    (outcome,) = colour.classify(flat(12, 10, 11), min_score=min_score).outcomes
    assert outcome.HasField("result")
    assert len(outcome.result.classes) == kept


# Detect


@pytest.mark.parametrize(("width", "height"), _SIZES)
def test_boxes_are_in_the_original_pictures_pixels(width: int, height: int, colour: Connection) -> None:
    image = raw(np.full((height, width, 3), (255, 0, 0), np.uint8))
    (outcome,) = colour.detect(image).outcomes
    (detection,) = outcome.result.detections
    assert (detection.class_id, detection.label, detection.score) == (0, "red", 1)
    # The detector finds everything in the left half.
    assert _box(detection) == pytest.approx((0, 0, width / 2, height))
    assert (outcome.result.image_width, outcome.result.image_height) == (width, height)


@pytest.mark.parametrize(
    ("model", "width", "height", "expected"),
    [
        # Scaled by 1/2 and centred: the upper and lower quarter of the input are padding.
        ("letterbox-detector", 16, 8, (0, 0, 8, 8)),
        # The left and right quarter are.
        ("letterbox-detector", 8, 16, (0, 0, 4, 16)),
        ("letterbox-detector", 400, 400, (0, 0, 200, 400)),
        # Only the square in the middle is seen: the box is its left half.
        ("crop-detector", 16, 8, (4, 0, 8, 8)),
        ("crop-detector", 8, 16, (0, 4, 4, 12)),
        ("crop-detector", 640, 320, (160, 0, 320, 320)),
    ],
)
def test_boxes_are_right_however_the_picture_was_resized(
    model: str, width: int, height: int, expected: Box, geometry: Connection
) -> None:
    image = raw(np.full((height, width, 3), (0, 255, 0), np.uint8))
    (outcome,) = geometry.detect(image, model=model).outcomes
    assert _box(outcome.result.detections[0]) == pytest.approx(expected)
    assert outcome.result.detections[0].label == "green"


def test_detections_come_by_descending_score_from_the_models_threshold(colour: Connection) -> None:
    (outcome,) = colour.detect(flat(130, 0, 255)).outcomes
    found = [(detection.label, detection.score) for detection in outcome.result.detections]
    assert found == [("blue", 1), ("red", pytest.approx(130 / 255))]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["red", "green"]),
        ({"score_threshold": 0}, ["red", "green", "blue"]),
        ({"score_threshold": 0.6}, ["red"]),
        ({"score_threshold": 1}, ["red"]),
        ({"max_detections": 1}, ["red"]),
        ({"max_detections": 10**9}, ["red", "green"]),
        ({"classes": ["green"]}, ["green"]),
        ({"classes": ["blue"]}, []),
        ({"classes": ["blue", "green", "blue"], "score_threshold": 0}, ["green", "blue"]),
        ({"classes": ["blue", "green"], "score_threshold": 0, "max_detections": 1}, ["green"]),
    ],
)
def test_detections_are_chosen_by_the_options(
    options: dict[str, Any], expected: list[str], colour: Connection
) -> None:
    # Scores 1, 0.51 and 0.2; the model's own threshold is 0.5.
    (outcome,) = colour.detect(flat(255, 130, 51), **options).outcomes
    assert outcome.HasField("result")
    assert [detection.label for detection in outcome.result.detections] == expected


# Segment


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in pycocotools
@pytest.mark.parametrize(("scale_y", "scale_x"), [(1, 1), (5, 3), (20, 41)])
def test_the_three_mask_formats_say_the_same(scale_y: int, scale_x: int, colour: Connection) -> None:
    image, classes = _cells(0, scale_y, scale_x)
    request = encoded(pictures.encode(image))
    of_format = {
        mask_format: colour.segment(request, mask_format=mask_format).outcomes[0].result
        for mask_format in (pb.MASK_FORMAT_RAW, pb.MASK_FORMAT_PNG, pb.MASK_FORMAT_COCO_RLE)
    }

    np.testing.assert_array_equal(_class_map(of_format[pb.MASK_FORMAT_RAW]), classes)
    with Image.open(io.BytesIO(of_format[pb.MASK_FORMAT_PNG].png)) as png:
        assert (png.format, png.mode) == ("PNG", "L")
        np.testing.assert_array_equal(np.asarray(png), classes)
    rle = of_format[pb.MASK_FORMAT_COCO_RLE]
    assert [(mask.class_id, mask.label) for mask in rle.coco_rle.masks] == [
        (0, "red"),
        (1, "green"),
        (2, "blue"),
    ]
    for mask in rle.coco_rle.masks:
        decoded = coco_mask.decode({"size": [rle.height, rle.width], "counts": mask.counts})
        np.testing.assert_array_equal(decoded, classes == mask.class_id)

    for result in of_format.values():
        assert (result.height, result.width) == classes.shape
        assert _areas(result) == {
            label: np.count_nonzero(classes == class_id)
            for class_id, label in enumerate(colour_bundles.LABELS)
        }
        areas = [area.area_pixels for area in result.areas]
        assert areas == sorted(areas, reverse=True)
        assert sum(areas) == classes.size


def test_a_mask_is_a_png_of_the_originals_size_unless_asked_otherwise(colour: Connection) -> None:
    (outcome,) = colour.segment(flat(0, 255, 0, side=40)).outcomes
    assert outcome.result.WhichOneof("mask") == "png"
    assert (outcome.result.width, outcome.result.height) == (40, 40)
    (outcome,) = colour.segment(flat(0, 255, 0, side=40), mask_size=pb.MASK_SIZE_MODEL).outcomes
    assert (outcome.result.width, outcome.result.height) == (SIDE, SIDE)
    assert _areas(outcome.result) == {"green": SIDE * SIDE}


@pytest.mark.parametrize(("width", "height"), _SIZES)
def test_a_mask_has_the_pictures_size(width: int, height: int, colour: Connection) -> None:
    image = raw(np.full((height, width, 3), (0, 0, 255), np.uint8))
    (outcome,) = colour.segment(image, mask_format=pb.MASK_FORMAT_RAW).outcomes
    np.testing.assert_array_equal(_class_map(outcome.result), np.full((height, width), _BLUE_ID))


def test_unwanted_classes_become_background(geometry: Connection) -> None:
    image, classes = _cells(1, 4, 4)
    model = {"model": "background-segmenter", "classes": ["blue"]}
    request = encoded(pictures.encode(image))

    result = geometry.segment(request, mask_format=pb.MASK_FORMAT_RAW, **model).outcomes[0].result
    expected = np.where(classes == _BLUE_ID, _BLUE_ID, _RED_ID)
    np.testing.assert_array_equal(_class_map(result), expected)
    blue = np.count_nonzero(classes == _BLUE_ID)
    assert _areas(result) == {"red": classes.size - blue, "blue": blue}

    result = geometry.segment(request, mask_format=pb.MASK_FORMAT_COCO_RLE, **model).outcomes[0].result
    assert [mask.label for mask in result.coco_rle.masks] == ["blue"]


def test_background_is_left_out_of_run_length_masks(geometry: Connection) -> None:
    image, _ = _cells(2, 4, 4)
    result = (
        geometry.segment(
            encoded(pictures.encode(image)),
            model="background-segmenter",
            mask_format=pb.MASK_FORMAT_COCO_RLE,
        )
        .outcomes[0]
        .result
    )
    assert [mask.label for mask in result.coco_rle.masks] == ["green", "blue"]
    assert _areas(result).keys() == {"red", "green", "blue"}


def test_unwanted_classes_stay_in_the_map_of_a_model_without_background(colour: Connection) -> None:
    image, classes = _cells(3, 2, 2)
    request = encoded(pictures.encode(image))
    green = {"green": np.count_nonzero(classes == _GREEN_ID)}

    result = colour.segment(request, mask_format=pb.MASK_FORMAT_RAW, classes=["green"]).outcomes[0].result
    np.testing.assert_array_equal(_class_map(result), classes)
    assert _areas(result) == green

    result = (
        colour.segment(request, mask_format=pb.MASK_FORMAT_COCO_RLE, classes=["green"]).outcomes[0].result
    )
    assert [mask.label for mask in result.coco_rle.masks] == ["green"]
    assert _areas(result) == green


def test_a_picture_without_the_wanted_class_has_an_empty_run_length_mask(geometry: Connection) -> None:
    (outcome,) = geometry.segment(
        _RED, model="background-segmenter", mask_format=pb.MASK_FORMAT_COCO_RLE, classes=["blue"]
    ).outcomes
    assert outcome.result.WhichOneof("mask") == "coco_rle"
    assert not outcome.result.coco_rle.masks


@pytest.mark.parametrize(
    ("model", "cut_off"), [("crop-segmenter", _BLUE_ID), ("crop-background-segmenter", _RED_ID)]
)
def test_what_a_centre_crop_cut_off_is_background_or_like_its_neighbour(
    model: str, cut_off: int, geometry: Connection
) -> None:
    pixels = np.full((SIDE, 3 * SIDE, 3), (0, 0, 255), np.uint8)
    (outcome,) = geometry.segment(raw(pixels), model=model, mask_format=pb.MASK_FORMAT_RAW).outcomes
    expected = np.full((SIDE, 3 * SIDE), cut_off)
    expected[:, SIDE : 2 * SIDE] = _BLUE_ID
    np.testing.assert_array_equal(_class_map(outcome.result), expected)


def test_a_letterboxed_picture_keeps_its_size_and_loses_its_padding(geometry: Connection) -> None:
    image, classes = pictures.quarters(width=64, height=32)
    (outcome,) = geometry.segment(
        encoded(pictures.encode(image)), model="letterbox-segmenter", mask_format=pb.MASK_FORMAT_RAW
    ).outcomes
    np.testing.assert_array_equal(_class_map(outcome.result), classes)


# Every task


def test_images_of_one_request_may_differ_in_size_and_encoding(colour: Connection) -> None:
    image, classes = pictures.quarters(width=64, height=48)
    small, small_classes = pictures.quarters(width=16, height=16)
    jpeg = encoded(pictures.encode(image, "JPEG", quality=95, subsampling=0))
    png = encoded(pictures.encode(small))
    pixels = raw(np.asarray(image))
    outcomes = colour.segment(jpeg, png, pixels, mask_format=pb.MASK_FORMAT_RAW).outcomes
    for outcome, expected in zip(outcomes, (classes, small_classes, classes), strict=True):
        np.testing.assert_array_equal(_class_map(outcome.result), expected)


def test_the_timing_says_where_the_time_went(colour: Connection) -> None:
    began = time.perf_counter()
    response = colour.segment(*[encoded(pictures.png(pictures.RED, 300, 200))] * 5)
    elapsed_us = (time.perf_counter() - began) * 1e6
    largest_batch = colour.get_model("colour-segmenter").execution.max_batch_size
    for outcome in response.outcomes:
        timing = outcome.timing
        stages = (timing.decode_us, timing.queue_us, timing.inference_us, timing.postprocess_us)
        assert min(timing.decode_us, timing.inference_us, timing.postprocess_us) > 0
        assert timing.queue_us >= 0
        # Each is rounded on its own.
        assert sum(stages) <= timing.total_us + len(stages)
        assert timing.total_us < elapsed_us
        assert 1 <= timing.batch_size <= min(5, largest_batch)


def test_images_of_one_request_run_together(small: Connection) -> None:
    largest_batch = small.get_model("colour-classifier").execution.max_batch_size
    (alone,) = small.classify(_RED, model="colour-classifier").outcomes
    assert alone.timing.batch_size == 1
    # There is one instance, so what comes together is not shared out.
    outcomes = small.classify(*[_GREEN] * 8, model="colour-classifier").outcomes
    for index, outcome in enumerate(outcomes):
        batch_begins_at = index // largest_batch * largest_batch
        assert outcome.timing.batch_size == min(largest_batch, 8 - batch_begins_at)
