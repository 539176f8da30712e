"""Class maps as bytes, without loss and without surprises in memory."""

import io
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from pycocotools import mask as coco_mask

from retinue_server.vision.masks import encode_coco_rle, encode_png, encode_raw

# pycocotools' own decoder, with NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

maps = arrays.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 3))


def blocks(height, width, classes, dtype=np.uint8):
    small = np.random.default_rng(0).integers(0, classes, (height // 8, width // 8)).astype(dtype)
    return small.repeat(8, axis=0).repeat(8, axis=1)


@given(maps)
def test_an_eight_bit_png_is_lossless(class_map):
    image = Image.open(io.BytesIO(encode_png(class_map)))
    assert image.mode == "L"
    np.testing.assert_array_equal(np.asarray(image), class_map)


def test_a_sixteen_bit_png_is_lossless():
    class_map = np.array([[0, 255, 256], [1000, 40_000, 65_535]], np.uint16)
    image = Image.open(io.BytesIO(encode_png(class_map)))
    assert image.mode == "I;16"
    np.testing.assert_array_equal(np.asarray(image), class_map)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_layout_in_memory_does_not_matter(dtype):
    class_map = blocks(64, 96, 5, dtype)
    for layout in (np.asfortranarray(class_map), class_map[::-1][::-1], np.pad(class_map, 3)[3:-3, 3:-3]):
        assert encode_png(layout) == encode_png(class_map)
        assert encode_raw(layout, 5) == encode_raw(class_map, 5)
        assert encode_coco_rle(layout, range(5)) == encode_coco_rle(class_map, range(5))


def test_areas_shrink_to_almost_nothing():
    assert len(encode_png(blocks(1024, 1024, 4))) < 1024 * 1024 / 50


@pytest.mark.parametrize(("num_classes", "dtype"), [(256, np.uint8), (257, np.dtype("<u2"))])
def test_raw_bytes_are_the_class_ids(num_classes, dtype):
    class_map = np.array([[1, 2, 3], [4, 5, num_classes - 1]], dtype)
    data = encode_raw(class_map, num_classes)
    np.testing.assert_array_equal(np.frombuffer(data, dtype).reshape(2, 3), class_map)


def test_raw_bytes_of_a_model_with_many_classes_are_sixteen_bit_whatever_the_map_is():
    assert encode_raw(np.array([[7]], np.uint8), 1000) == b"\7\0"


@given(maps)
def test_run_lengths_are_those_of_pycocotools(class_map):
    masks = encode_coco_rle(class_map, range(4))
    assert [class_id for class_id, _ in masks] == sorted({int(class_id) for class_id in class_map.flat})
    for class_id, counts in masks:
        mask = np.asfortranarray((class_map == class_id).astype(np.uint8))
        assert counts == coco_mask.encode(mask)["counts"]
        decoded = coco_mask.decode({"size": list(class_map.shape), "counts": counts})
        np.testing.assert_array_equal(decoded, mask)


def test_only_the_classes_asked_for_are_encoded_in_ascending_order():
    class_map = np.array([[5, 0, 2], [2, 7, 5]], np.uint8)
    assert [class_id for class_id, _ in encode_coco_rle(class_map, [7, 5, 3, 5])] == [5, 7]
    assert encode_coco_rle(class_map, []) == []


def test_run_lengths_of_sixteen_bit_maps():
    class_map = np.array([[300, 300], [2, 65_535]], np.uint16)
    masks = dict(encode_coco_rle(class_map, [300, 65_535]))
    decoded = coco_mask.decode({"size": [2, 2], "counts": masks[65_535]})
    np.testing.assert_array_equal(decoded, [[0, 0], [0, 1]])


def test_a_hundred_classes_on_a_large_photo_take_less_memory_than_ten_masks():
    class_map = np.asfortranarray(blocks(3024, 4032, 100))
    tracemalloc.start()
    masks = encode_coco_rle(class_map, range(100))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(masks) == 100
    assert peak < 10 * class_map.size
