"""Rows of a detector become boxes in the original image."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from retinue_server.errors import EngineError
from retinue_server.vision.detect import keypoints_to_original, to_original
from retinue_server.vision.resize import frame_for
from retinue_server.vision.spec import InputSpec, ResizeMode


def frame_of(mode, width, height):
    return frame_for(
        width, height, InputSpec(96, 128, False, mode, Image.Resampling.BILINEAR, shorter_side=140)
    )


SAME = frame_for(128, 96, InputSpec(96, 128, False, ResizeMode.STRETCH, Image.Resampling.BILINEAR))


def detections(rows, frame=SAME, **options):
    """From rows of x1, y1, x2, y2, score, class."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    options = {"score_threshold": 0.0, **options}
    return to_original(table[:, :4], table[:, 4], table[:, 5].astype(np.int32), frame, **options)


def test_rows_of_score_zero_are_padding():
    found = detections([[1, 2, 3, 4, 0.9, 5], [0, 0, 9, 9, 0, 0], [0, 0, 9, 9, 0, 0]])
    np.testing.assert_array_equal(found.boxes, [[1, 2, 3, 4]])
    np.testing.assert_array_equal(found.classes, [5])
    assert found.scores.tolist() == [np.float32(0.9)]
    assert (found.boxes.dtype, found.scores.dtype, found.classes.dtype) == (np.float32, np.float32, np.int32)


def test_nothing_found_is_an_empty_result():
    found = detections([[0, 0, 9, 9, 0, 0]])
    assert (found.boxes.shape, found.scores.shape, found.classes.shape) == ((0, 4), (0,), (0,))
    assert detections([]).scores.size == 0


def test_lower_scores_are_left_out_and_the_threshold_itself_is_not():
    rows = [[0, 0, 9, 9, score, index] for index, score in enumerate((0.75, 0.5, 0.25))]
    assert detections(rows, score_threshold=0.5).classes.tolist() == [0, 1]


def test_the_best_are_kept_where_there_are_too_many():
    rows = [[0, 0, 9, 9, score, index] for index, score in enumerate((0.25, 0.75, 0.5, 0.75))]
    assert detections(rows, max_detections=3).classes.tolist() == [1, 3, 2]
    assert detections(rows, max_detections=None).classes.tolist() == [1, 3, 2, 0]
    assert detections(rows, max_detections=10**9).classes.tolist() == [1, 3, 2, 0]


def test_only_wanted_classes_count_towards_the_most():
    rows = [[0, 0, 9, 9, 0.9 - 0.1 * index, index % 3] for index in range(6)]
    assert detections(rows, class_ids={1, 7}, max_detections=2).classes.tolist() == [1, 1]
    assert detections(rows, class_ids=set()).scores.size == 0


@pytest.mark.parametrize("column", range(5))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_the_models_fault(column, value):
    bad = [1, 2, 3, 4, 0.3, 0]
    bad[column] = value
    with pytest.raises(EngineError, match="its bundle is broken"):
        detections([[1, 2, 3, 4, 0.5, 1], bad], score_threshold=0.4)


@pytest.mark.parametrize("score", [7.0, -0.5])
def test_a_score_that_is_no_probability_is_the_models_fault(score):
    with pytest.raises(EngineError, match="its bundle is broken"):
        detections([[1, 2, 3, 4, score, 0]])


def test_the_boxes_of_padding_may_be_anything():
    assert detections([[np.nan] * 4 + [0, 0], [1, 2, 3, 4, 0.5, 1]]).classes.tolist() == [1]


@pytest.mark.parametrize("box", [[5, 5, 5, 9], [5, 5, 9, 5], [9, 5, 5, 9], [-9, 5, 0, 9], [128, 5, 200, 9]])
def test_a_box_without_area_in_the_image_is_dropped(box):
    assert detections([[*box, 0.9, 0]]).scores.size == 0


def test_boxes_are_clipped_to_the_image():
    np.testing.assert_array_equal(detections([[-5, -6, 500, 600, 0.9, 0]]).boxes, [[0, 0, 128, 96]])


def test_a_box_in_the_padding_of_a_letterbox_is_dropped_and_one_across_it_is_cut():
    frame = frame_of(ResizeMode.LETTERBOX, 1280, 96)  # 9.6, so 10 rows high, from row 43
    _, top, _, bottom = frame.valid
    found = detections([[0, 0, 128, top, 0.9, 0], [0, 0, 64, 96, 0.8, 1]], frame)
    assert found.classes.tolist() == [1]
    np.testing.assert_allclose(found.boxes, [[0, 0, 640, 96]], rtol=1e-6)
    assert bottom - top == 10


@given(
    st.sampled_from(list(ResizeMode)),
    st.integers(1, 5000),
    st.integers(1, 5000),
    st.tuples(*[st.floats(0, 1)] * 4),
)
def test_a_box_that_the_input_shows_comes_back_where_it_was(mode, width, height, corners):
    frame = frame_of(mode, width, height)
    left, top, right, bottom = frame.valid
    x1, x2 = sorted(left + (right - left) * corner for corner in corners[:2])
    y1, y2 = sorted(top + (bottom - top) * corner for corner in corners[2:])
    found = detections([[x1, y1, x2, y2, 0.5, 0]], frame)
    for box in found.boxes:
        assert 0 <= box[0] < box[2] <= width
        assert 0 <= box[1] < box[3] <= height
        there = box.astype(float) * np.array([frame.scale_x, frame.scale_y] * 2)
        there += np.array([frame.offset_x, frame.offset_y] * 2)
        # In 32-bit floats: relative to where the image lies in the input, which may be far outside of it.
        tolerance = 1e-6 * max(1000, width * frame.scale_x, height * frame.scale_y)
        np.testing.assert_allclose(there, [x1, y1, x2, y2], atol=tolerance)
    if x2 - x1 > 0.1 and y2 - y1 > 0.1 and max(width, height) < 1000:
        assert len(found.scores) == 1


def test_it_is_told_which_row_each_detection_comes_from():
    found = detections([[1, 2, 3, 4, 0.2, 5], [0, 0, 0, 9, 0.9, 0], [0, 0, 9, 9, 0.8, 1]])
    assert found.rows.tolist() == [2, 0]


def test_keypoints_go_back_to_the_original_image_and_stay_inside():
    frame = frame_of(ResizeMode.STRETCH, 256, 48)
    points = np.array([[[64, 48, -3], [200, -5, 7]]], np.float32)
    np.testing.assert_array_equal(keypoints_to_original(points, frame), [[[128, 24, -3], [256, 0, 7]]])


def test_a_keypoint_that_is_not_finite_is_an_error():
    with pytest.raises(EngineError, match="keypoint"):
        keypoints_to_original(np.array([[[1, np.nan, 0]]], np.float32), SAME)
