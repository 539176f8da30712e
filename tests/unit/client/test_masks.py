import io

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from retinue_client import ResponseError
from retinue_client import _masks as masks


def blobs(rng, height, width):
    """A mask with long runs, short runs and single pixels."""
    field = rng.random((height, width))
    found = field < 0.02
    found[: height // 2, width // 3 : width // 2] = True
    return found


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (7, 5), (300, 401), (1200, 900)])
@pytest.mark.parametrize("kind", ["blobs", "noise", "empty", "full"])
def test_run_length_masks_decode_as_pycocotools_decodes_them(shape, kind):
    rng = np.random.default_rng(1)
    expected = {
        "blobs": lambda: blobs(rng, *shape),
        "noise": lambda: rng.random(shape) < 0.5,
        "empty": lambda: np.zeros(shape, np.bool_),
        "full": lambda: np.ones(shape, np.bool_),
    }[kind]()
    counts = coco.encode(np.asfortranarray(expected.astype(np.uint8)))["counts"]
    assert np.array_equal(masks.mask_from_rle(counts, *shape), expected)


def test_the_decompressed_run_lengths_are_those_of_the_mask():
    assert masks.rle_counts(b"9220003").tolist() == [9, 2, 2, 2, 2, 2, 5]


@pytest.mark.parametrize(
    "counts", [b"", b"9", b"92200", b"P", b"9220003P", b"\x00\xff", b"P" * 40 + b"0", b"O1"]
)
def test_run_lengths_that_do_not_fit_are_an_error_of_the_answer(counts):
    with pytest.raises(ResponseError):
        masks.mask_from_rle(counts, 4, 6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_class_maps_come_back_from_png(dtype):
    class_map = np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, (13, 17)).astype(dtype)
    buffer = io.BytesIO()
    Image.fromarray(class_map).save(buffer, "PNG")
    decoded = masks.class_map_from_png(buffer.getvalue(), 13, 17)
    assert decoded.dtype == dtype
    assert np.array_equal(decoded, class_map)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_class_maps_come_back_from_raw_bytes(dtype):
    class_map = np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, (13, 17)).astype(dtype)
    decoded = masks.class_map_from_raw(class_map.astype(class_map.dtype.newbyteorder("<")).tobytes(), 13, 17)
    assert decoded.dtype == dtype
    assert np.array_equal(decoded, class_map)


def test_heatmaps_come_back_from_png():
    levels = np.random.default_rng(0).integers(0, 256, (13, 17)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, "PNG")
    assert np.array_equal(masks.heatmap_from_png(buffer.getvalue()), levels)
    for mode in ("RGB", "I;16"):
        buffer = io.BytesIO()
        Image.new(mode, (3, 2)).save(buffer, "PNG")
        with pytest.raises(ResponseError, match="A heatmap came as a PNG of mode"):
            masks.heatmap_from_png(buffer.getvalue())


def test_class_maps_of_another_size_or_kind_are_an_error_of_the_answer():
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2)).save(buffer, "PNG")
    for png, height, width in (
        (buffer.getvalue(), 2, 3),
        (buffer.getvalue(), 3, 2),
        (b"", 2, 3),
        (b"x" * 99, 2, 3),
    ):
        with pytest.raises(ResponseError):
            masks.class_map_from_png(png, height, width)
    with pytest.raises(ResponseError):
        masks.class_map_from_raw(b"12345", 2, 3)
