import pytest
from PIL import Image
from tests.unit.server.served import served_model

from retinue_server.catalog import ServedModel
from retinue_server.errors import ImageError, InvalidRequestError
from retinue_server.results import (
    ClassifyOptions,
    DetectOptions,
    MaskFormat,
    Options,
    SegmentOptions,
    Task,
    Work,
)
from retinue_server.rpc.reply_size import expected_bytes

WIDTH, HEIGHT = 30, 10
MAP_WIDTH, MAP_HEIGHT = 20, 5
SHARE = 10**6


@pytest.fixture
def segmenter() -> ServedModel:
    model = served_model("a", task=Task.SEGMENT)
    model.manifest.segment.map_width, model.manifest.segment.map_height = MAP_WIDTH, MAP_HEIGHT
    return model


def segmenting(mask_format: MaskFormat, original_size: bool = True, share: int = SHARE) -> SegmentOptions:
    return SegmentOptions(mask_format, original_size, None, max_picture_bytes=share)


def detecting(masks: bool, share: int = SHARE) -> DetectOptions:
    return DetectOptions(0.5, 9, None, 0.6, masks, max_picture_bytes=share)


def work(options: Options, width: int = WIDTH, height: int = HEIGHT) -> Work:
    return Work(Image.new("RGB", (width, height)), options)


@pytest.mark.parametrize(
    ("original_size", "each", "advice"),
    [
        (True, WIDTH * HEIGHT, "for the model's size"),
        (False, MAP_WIDTH * MAP_HEIGHT, "PNG or COCO_RLE, or send"),
    ],
)
def test_raw_masks_over_the_limit_are_refused_before_they_are_made(
    original_size: bool, each: int, advice: str, segmenter: ServedModel
) -> None:
    options = segmenting(MaskFormat.RAW, original_size)
    works = [work(options), ImageError("unreadable."), work(options)]
    assert expected_bytes(options, works, segmenter, max_bytes=2 * each) == 2 * each
    with pytest.raises(InvalidRequestError) as refused:
        expected_bytes(options, works, segmenter, max_bytes=2 * each - 1)
    assert refused.value.reason == "REPLY_TOO_LARGE"
    assert f"would take {2 * each} bytes, more than {2 * each - 1}" in refused.value.message
    assert advice in refused.value.message


def test_raw_masks_of_many_classes_take_two_bytes_a_pixel(segmenter: ServedModel) -> None:
    segmenter.manifest.labels.extend(f"class {number}" for number in range(255))
    options = segmenting(MaskFormat.RAW)
    with pytest.raises(InvalidRequestError, match=f"would take {2 * WIDTH * HEIGHT} bytes"):
        expected_bytes(options, [work(options)], segmenter, max_bytes=WIDTH * HEIGHT)


@pytest.mark.parametrize(
    ("options", "size", "expected"),
    [
        (ClassifyOptions(1, 0, max_picture_bytes=SHARE), (WIDTH, HEIGHT), 0),
        (ClassifyOptions(1, 0, heatmap=True, max_picture_bytes=SHARE), (WIDTH, HEIGHT), WIDTH * HEIGHT),
        (ClassifyOptions(1, 0, heatmap=True, max_picture_bytes=SHARE), (9000, 9000), 512 * 512),
        (detecting(masks=False), (9000, 10), 0),
        (detecting(masks=True), (9000, 10), 2 * 9 * 9000),
        (detecting(masks=True), (10, 9000), 2 * 9 * 9000),
        (detecting(masks=True, share=700), (9000, 10), 700),
        (segmenting(MaskFormat.PNG), (900, 900), MAP_WIDTH * MAP_HEIGHT),
        (segmenting(MaskFormat.PNG), (3, 2), 6),
        (segmenting(MaskFormat.COCO_RLE), (900, 900), 900 * MAP_HEIGHT),
        (segmenting(MaskFormat.COCO_RLE, share=700), (900, 900), 700),
        (segmenting(MaskFormat.COCO_RLE, original_size=False), (900, 900), MAP_WIDTH * MAP_HEIGHT),
    ],
)
def test_what_masks_and_heatmaps_will_take_is_guessed_up_to_the_images_share(
    options: Options, size: tuple[int, int], expected: int, segmenter: ServedModel
) -> None:
    works = [work(options, *size), ImageError("unreadable."), work(options, *size)]
    assert expected_bytes(options, works, segmenter, max_bytes=1) == 2 * expected
