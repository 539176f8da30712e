"""Class maps find their way back to the pixels of the original image."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from retinue_server.errors import EngineError
from retinue_server.vision.resize import frame_for
from retinue_server.vision.segment import checked, class_areas, keep_classes, to_original
from retinue_server.vision.spec import InputSpec, ResizeMode

CROP, LETTERBOX, STRETCH = ResizeMode.SHORTER_SIDE_CENTER_CROP, ResizeMode.LETTERBOX, ResizeMode.STRETCH


def frame_of(mode, width, height, input_width=32, input_height=24, shorter_side=40):
    spec = InputSpec(
        input_height, input_width, False, mode, Image.Resampling.BILINEAR, shorter_side=shorter_side
    )
    return frame_for(width, height, spec)


def numbered(height, width):
    return (np.arange(height * width) % 251).astype(np.uint8).reshape(height, width)


@pytest.mark.parametrize("mode", list(ResizeMode))
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_map_of_the_same_size_is_unchanged(mode, order):
    frame = (
        frame_of(mode, 32, 24, shorter_side=32) if mode is not CROP else frame_of(CROP, 32, 32, 32, 32, 32)
    )
    class_map = numbered(frame.input_height, 32)
    result = to_original(class_map, frame, background=0, order=order)
    np.testing.assert_array_equal(result, class_map)
    assert result.flags.c_contiguous if order == "C" else result.flags.f_contiguous


def test_a_stretched_map_is_expanded_by_nearest_neighbour():
    class_map = np.array([[1, 2], [3, 4]], np.uint8)
    result = to_original(class_map, frame_of(STRETCH, 6, 4), background=0)
    np.testing.assert_array_equal(result, class_map.repeat(2, axis=0).repeat(3, axis=1))


def test_the_padding_of_a_letterbox_never_shows():
    frame = frame_of(LETTERBOX, 640, 160)
    left, top, right, bottom = frame.valid
    class_map = np.full((24, 32), 9, np.uint8)
    class_map[top:bottom, left:right] = 3
    assert (to_original(class_map, frame, background=0) == 3).all()


def test_what_a_crop_cut_off_is_background():
    frame = frame_of(
        CROP, 800, 400
    )  # 80 x 40 when resized, of which 32 x 24 are shown: 320 x 240 of the original
    result = to_original(np.full((24, 32), 5, np.uint8), frame, background=7)
    expected = np.full((400, 800), 7)
    expected[80:320, 240:560] = 5
    np.testing.assert_array_equal(result, expected)


def test_without_a_background_it_has_the_class_of_the_nearest_pixel():
    frame = frame_of(CROP, 800, 400)
    class_map = numbered(24, 32)
    result = to_original(class_map, frame, background=None)
    assert result.shape == (400, 800)
    assert result[0, 0] == class_map[0, 0]
    assert result[399, 799] == class_map[23, 31]
    assert result[0, 400] == class_map[0, 16]
    np.testing.assert_array_equal(result[80:320, 240:560], class_map.repeat(10, axis=0).repeat(10, axis=1))


@pytest.mark.parametrize("mode", list(ResizeMode))
def test_a_map_smaller_than_the_input_covers_all_of_it(mode):
    frame = frame_of(mode, 317, 211)
    small = numbered(6, 8)
    large = small.repeat(4, axis=0).repeat(4, axis=1)
    expected = to_original(large, frame, background=0)
    np.testing.assert_array_equal(to_original(small, frame, background=0), expected)


@given(
    st.sampled_from(list(ResizeMode)),
    st.integers(1, 300),
    st.integers(1, 300),
    st.integers(1, 48),
    st.integers(1, 64),
    st.sampled_from([None, 250]),
    st.sampled_from("CF"),
)
def test_each_pixel_has_the_class_under_its_centre(
    mode, width, height, map_height, map_width, background, order
):
    frame = frame_of(mode, width, height)
    class_map = (np.arange(map_height * map_width) % 250).astype(np.uint8).reshape(map_height, map_width)
    result = to_original(class_map, frame, background=background, order=order)
    assert result.shape == (height, width)
    assert result.dtype == np.uint8
    left, top, right, bottom = frame.valid
    for row, column in (
        (0, 0),
        (height // 2, width // 2),
        (height - 1, width - 1),
        (height // 3, width // 4),
    ):
        x = (column + 0.5) * frame.scale_x + frame.offset_x
        y = (row + 0.5) * frame.scale_y + frame.offset_y
        down, across = y * map_height / 24, x * map_width / 32
        if min(abs(down - round(down)), abs(across - round(across))) < 1e-9:
            continue  # on the edge between two pixels of the map, rounding decides
        if left <= x < right and top <= y < bottom:
            expected = class_map[int(down), int(across)]
        elif background is not None:
            expected = background
        else:
            x_near = min(max(int(across), int(left * map_width / 32)), map_width - 1)
            y_near = min(max(int(down), int(top * map_height / 24)), map_height - 1)
            expected = class_map[y_near, x_near]
        assert result[row, column] == expected


def test_areas_count_every_pixel():
    class_map = (
        np.random.default_rng(0).integers(0, 5, (700, 900)).astype(np.uint8)
    )  # more than is counted at once
    for layout in (class_map, np.asfortranarray(class_map), class_map[::2, ::3]):
        areas = class_areas(layout, 7)
        assert areas.dtype == np.int64
        np.testing.assert_array_equal(areas, [(layout == class_id).sum() for class_id in range(7)])


def test_other_classes_become_background():
    class_map = np.array([[0, 1, 2], [3, 2, 1]], np.uint8)
    np.testing.assert_array_equal(keep_classes(class_map, {1, 3}, 0), [[0, 1, 0], [3, 0, 1]])
    np.testing.assert_array_equal(keep_classes(class_map, [], 2), np.full((2, 3), 2))
    wide = np.array([[0, 700, 40_000]], np.uint16)
    np.testing.assert_array_equal(keep_classes(wide, {40_000}, 700), [[700, 700, 40_000]])


def test_without_a_background_other_classes_stay():
    class_map = np.array([[0, 1, 2]], np.uint8)
    assert keep_classes(class_map, {1}, None) is class_map


@pytest.mark.parametrize(("num_classes", "dtype"), [(1, np.uint8), (256, np.uint8), (257, np.uint16)])
def test_a_map_gets_the_smallest_type_that_holds_its_classes(num_classes, dtype):
    class_map = np.array([[0, num_classes - 1]], np.int32)
    narrow = checked(class_map, num_classes)
    assert narrow.dtype == dtype
    np.testing.assert_array_equal(narrow, class_map)


def test_a_map_of_the_right_type_is_not_copied():
    class_map = np.zeros((3, 3), np.uint8)
    assert checked(class_map, 4) is class_map


@pytest.mark.parametrize("class_id", [-1, 21, 255, 256])
def test_a_class_that_the_model_does_not_have_is_its_fault(class_id):
    with pytest.raises(EngineError):
        checked(np.array([[0, class_id]], np.int32), 21)
