import numpy as np
import pytest
from PIL import Image
from tests.unit.server.served import served_model

from retinue_server.catalog import ServedModel
from retinue_server.errors import ImageError, InvalidRequestError
from retinue_server.results import (
    Answer,
    Classification,
    MaskFormat,
    Segmentation,
    SegmentOptions,
    Task,
    Work,
)
from retinue_server.rpc.replies import classify_response, segment_response
from retinue_server.rpc.requests import raw_mask_bytes
from retinue_server.service import ImageOutcome

WIDTH, HEIGHT = 30, 10
IMAGE = Work(Image.new("RGB", (WIDTH, HEIGHT)), SegmentOptions(MaskFormat.RAW, True, None))
MAP_WIDTH, MAP_HEIGHT = 20, 5


@pytest.fixture
def model() -> ServedModel:
    model = served_model("a", task=Task.SEGMENT)
    model.manifest.segment.map_width, model.manifest.segment.map_height = MAP_WIDTH, MAP_HEIGHT
    return model


def outcome(mask_format: MaskFormat, mask: bytes | list[tuple[int, bytes]]) -> ImageOutcome:
    return ImageOutcome(Answer(Segmentation(1, 1, mask_format, mask, []), 0.0, 0.0, 0.0, 1), 0.0, 0.0)


@pytest.mark.parametrize(
    ("original_size", "each", "advice"),
    [
        (True, WIDTH * HEIGHT, "for the model's size"),
        (False, MAP_WIDTH * MAP_HEIGHT, "PNG or COCO_RLE, or send"),
    ],
)
def test_raw_masks_over_the_limit_are_refused_before_they_are_made(
    original_size: bool, each: int, advice: str, model: ServedModel
) -> None:
    options = SegmentOptions(MaskFormat.RAW, original_size, None)
    images = [IMAGE, ImageError("unreadable."), IMAGE]
    assert raw_mask_bytes(options, images, model, max_bytes=2 * each) == 2 * each
    with pytest.raises(InvalidRequestError) as refused:
        raw_mask_bytes(options, images, model, max_bytes=2 * each - 1)
    assert refused.value.reason == "REPLY_TOO_LARGE"
    assert f"would take {2 * each} bytes, more than {2 * each - 1}" in refused.value.message
    assert advice in refused.value.message


def test_raw_masks_of_many_classes_take_two_bytes_a_pixel(model: ServedModel) -> None:
    model.manifest.labels.extend(f"class {number}" for number in range(255))
    with pytest.raises(InvalidRequestError, match=f"would take {2 * WIDTH * HEIGHT} bytes"):
        raw_mask_bytes(SegmentOptions(MaskFormat.RAW, True, None), [IMAGE], model, max_bytes=WIDTH * HEIGHT)


@pytest.mark.parametrize(
    ("mask_format", "mask"),
    [(MaskFormat.PNG, bytes(60)), (MaskFormat.COCO_RLE, [(0, bytes(20)), (1, bytes(40))])],
)
def test_compressed_masks_are_bounded_when_they_are_there(
    mask_format: MaskFormat, mask: bytes | list[tuple[int, bytes]], model: ServedModel
) -> None:
    assert raw_mask_bytes(SegmentOptions(mask_format, True, None), [IMAGE] * 2, model, max_bytes=1) == 0
    outcomes = [outcome(mask_format, mask), ImageOutcome(ImageError("unreadable."), None, 0.0)] * 2
    assert len(segment_response(model, outcomes, max_mask_bytes=120).outcomes) == 4
    with pytest.raises(InvalidRequestError) as refused:
        segment_response(model, outcomes, max_mask_bytes=119)
    assert refused.value.reason == "REPLY_TOO_LARGE"
    assert "take 120 bytes, more than 119; ask for the model's size" in refused.value.message


def test_heatmaps_are_bounded_like_masks() -> None:
    model = served_model("a")
    result = Classification(np.array([1]), np.array([0.5], np.float32), bytes(60))
    outcomes = [ImageOutcome(Answer(result, 0.0, 0.0, 0.0, 1), 0.0, 0.0)] * 2
    reply = classify_response(model, outcomes, max_heatmap_bytes=120)
    assert [len(outcome.result.heatmap) for outcome in reply.outcomes] == [60, 60]
    with pytest.raises(InvalidRequestError) as refused:
        classify_response(model, outcomes, max_heatmap_bytes=119)
    assert refused.value.reason == "REPLY_TOO_LARGE"
    assert "the heatmaps take 120 bytes, more than 119; send fewer" in refused.value.message
