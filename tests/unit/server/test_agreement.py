"""How far two answers agree is what a person would say who lays one over the other."""

from typing import Any

import numpy as np
import pytest

from retinue_server.agreement import agreement, overlaps, translation
from retinue_server.results import Classification, DetectionList, MaskFormat, Segmentation, TensorRows
from retinue_server.vision import masks

LABELS = ["cat", "dog", "crane", "crane"]
SAME = translation(LABELS, LABELS)
# Of a version that was trained with them in another order, and with one more.
OTHERS = ["dog", "cow", "cat", "crane"]
OTHER = translation(LABELS, OTHERS)


def detections(*found: tuple[float, float, float, float, int]) -> DetectionList:
    rows = np.array(found, np.float32).reshape(-1, 5)
    scores = np.linspace(0.9, 0.5, len(rows), dtype=np.float32)
    return DetectionList(rows[:, :4], scores, rows[:, 4].astype(np.int32), 100, 100)


def segmentation(class_map: Any, mask_format: MaskFormat, num_classes: int = 4) -> Segmentation:
    pixels = np.array(class_map, np.uint8 if num_classes <= 256 else np.uint16)
    encoded: Any = {
        MaskFormat.PNG: lambda: masks.encode_png(pixels),
        MaskFormat.RAW: lambda: masks.encode_raw(pixels, num_classes),
        MaskFormat.COCO_RLE: lambda: masks.encode_coco_rle(pixels, range(1, num_classes)),
    }[mask_format]()
    return Segmentation(pixels.shape[1], pixels.shape[0], mask_format, encoded, [])


def test_classes_are_the_same_by_name_where_their_numbers_differ() -> None:
    assert SAME.tolist() == [0, 1, 2, 3]
    assert OTHER.tolist() == [1, -1, 0, 2]


@pytest.mark.parametrize(
    ("first", "second", "classes", "expected"),
    [
        ([1, 0], [1, 2], SAME, 1),
        ([1, 0], [0, 1], SAME, 0),
        ([2], [3], SAME, 0),
        ([1], [0], OTHER, 1),
        ([1], [1], OTHER, 0),
        # No class reached the score that was asked for.
        ([], [], SAME, 1),
        ([1], [], SAME, 0),
        ([], [1], SAME, 0),
    ],
)
def test_classifications_agree_where_their_top_class_is_the_same(
    first: list[int], second: list[int], classes: Any, expected: float
) -> None:
    scores = [0.5] * 2
    told = agreement(Classification(first, scores), Classification(second, scores), classes, 4)
    assert told == expected


def test_the_overlap_of_boxes_is_intersection_over_union() -> None:
    first = np.array([[0, 0, 10, 10], [0, 0, 0, 0]], np.float32)
    second = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30], [0, 0, 0, 0]], np.float32)
    np.testing.assert_allclose(overlaps(first, second), [[1, 1 / 3, 0, 0], [0, 0, 0, 0]])


CAT, DOG, NEAR_CAT, FAR_CAT = (0, 0, 10, 10, 0), (50, 50, 90, 90, 1), (0, 0, 10, 8, 0), (5, 0, 15, 10, 0)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([], [], 1),
        ([CAT], [], 0),
        ([], [CAT], 0),
        ([CAT, DOG], [DOG, NEAR_CAT], 1),
        ([CAT, DOG], [DOG], 2 / 3),
        ([CAT], [FAR_CAT], 0),
        ([CAT], [(0, 0, 10, 10, 1)], 0),
        # One object is nobody's counterpart twice.
        ([CAT, CAT], [CAT], 2 / 3),
        ([CAT], [NEAR_CAT, CAT], 2 / 3),
    ],
)
def test_detections_agree_by_the_share_that_has_a_counterpart(
    first: list[Any], second: list[Any], expected: float
) -> None:
    assert agreement(detections(*first), detections(*second), SAME, 4) == pytest.approx(expected)


def test_detections_of_other_class_numbers_agree_by_name() -> None:
    first, second = detections((0, 0, 9, 9, 1)), detections((0, 0, 9, 9, 0))
    assert agreement(first, second, OTHER, 4) == 1
    assert agreement(first, detections((0, 0, 9, 9, 1)), OTHER, 4) == 0


@pytest.mark.parametrize("mask_format", list(MaskFormat))
def test_class_maps_agree_by_the_share_of_their_pixels(mask_format: MaskFormat) -> None:
    first = segmentation([[0, 1, 1], [2, 2, 0]], mask_format)
    second = segmentation([[0, 1, 2], [2, 0, 0]], mask_format)
    assert agreement(first, first, SAME, 4) == 1
    assert agreement(first, second, SAME, 4) == pytest.approx(4 / 6)
    background = segmentation(np.zeros((2, 3)), mask_format)
    assert agreement(background, background, SAME, 4) == 1
    assert agreement(background, first, SAME, 4) == pytest.approx(2 / 6)


@pytest.mark.parametrize("mask_format", [MaskFormat.PNG, MaskFormat.RAW])
def test_class_maps_of_other_sizes_and_numbers_are_compared_where_they_lie(mask_format: MaskFormat) -> None:
    small = segmentation([[0, 1], [1, 0]], mask_format)
    large = segmentation(np.kron([[2, 0], [0, 2]], np.ones((3, 3))), mask_format)
    assert agreement(small, large, OTHER, 4) == 1
    assert agreement(large, small, translation(OTHERS, LABELS), 4) == 1


@pytest.mark.parametrize("mask_format", [MaskFormat.PNG, MaskFormat.RAW])
def test_large_maps_of_many_classes_are_compared_as_a_whole(mask_format: MaskFormat) -> None:
    labels = [str(number) for number in range(300)]
    first = np.arange(700 * 900).reshape(700, 900) % 300
    second = first.copy()
    second[-1] = 299 - second[-1]
    one, other = segmentation(first, mask_format, 300), segmentation(second, mask_format, 300)
    assert agreement(one, other, translation(labels, labels), 300) == pytest.approx(699 / 700)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1.0, 2.0], [1.009, 2.0], 1),
        ([1.0, 2.0], [1.02, 2.0], 0),
        ([0.0, 0.0], [0.0009, 0.0], 1),
        ([0.0, np.nan], [0.0, np.nan], 1),
        ([0.0, np.nan], [0.0, 1.0], 0),
        ([1.0, 2.0], [1.0], 0),
    ],
)
def test_tensors_agree_where_all_are_close(first: list[float], second: list[float], expected: float) -> None:
    one, other = (TensorRows({"out": np.array(values, np.float32)}) for values in (first, second))
    assert agreement(one, other, SAME, 4) == expected


def test_tensors_of_whole_numbers_and_of_text_agree_where_they_are_equal() -> None:
    def of(values: Any) -> TensorRows:
        return TensorRows({"out": np.array(values)})

    assert agreement(of([1000]), of([1000]), SAME, 4) == 1
    assert agreement(of([1000]), of([1001]), SAME, 4) == 0
    assert agreement(of(["a"]), of(["b"]), SAME, 4) == 0
    assert agreement(of([1]), of([1.0]), SAME, 4) == 0
    assert agreement(of([1]), TensorRows({"other": np.array([1])}), SAME, 4) == 0
