import numpy as np
import pytest

from retinue_client import ClassArea, Classification, ClassScore, Detections, Segmentation, Timing
from retinue_client._agreement import agreement
from retinue_server import agreement as servers
from retinue_server import results

ORIGIN = {"model": "m", "version": 3, "timing": Timing(0, 0, 0, 0, 0, 1)}


def classification(*labels):
    return Classification(
        tuple(ClassScore(index, label, 0.5) for index, label in enumerate(labels)), **ORIGIN
    )


def detections(*found):
    """Of (label, box)."""
    return Detections(
        boxes=np.array([box for _, box in found], np.float32).reshape(-1, 4),
        scores=np.full(len(found), 0.5, np.float32),
        class_ids=np.zeros(len(found), np.int32),
        labels=tuple(label for label, _ in found),
        image_width=100,
        image_height=100,
        **ORIGIN,
    )


def segmentation(labels, *rows):
    """Of the labels of the classes 1, 2, ... and rows of class ids."""
    class_map = np.array(rows, np.uint8)
    return Segmentation(
        width=class_map.shape[1],
        height=class_map.shape[0],
        areas=tuple(
            ClassArea(class_id, label, int((class_map == class_id).sum()))
            for class_id, label in enumerate(labels, 1)
        ),
        mask_format="raw",
        mask_size="model",
        encoded=class_map.tobytes(),
        rle_masks=(),
        **ORIGIN,
    )


def test_classifications_agree_on_the_most_probable_class():
    assert agreement(classification("cat", "dog"), classification("cat", "eel")) == 1
    assert agreement(classification("cat", "dog"), classification("dog", "cat")) == 0
    assert agreement(classification(), classification()) == 1
    assert agreement(classification(), classification("cat")) == 0


def test_versions_that_number_their_classes_alike_may_give_two_of_them_one_name():
    one, other = classification("crane"), Classification((ClassScore(1, "crane", 0.5),), **ORIGIN)
    assert agreement(one, other) == 1
    assert agreement(one, other, same_classes=True) == 0
    # All detections here have the class 0.
    assert agreement(detections(("a", BOX)), detections(("b", BOX)), same_classes=True) == 1
    first, second = segmentation(["a", "a"], [1, 2]), segmentation(["a", "a"], [2, 2])
    assert agreement(first, second, same_classes=True) == 0.5


@pytest.mark.parametrize("seed", range(20))
def test_client_and_server_say_the_same_of_detections(seed):
    random = np.random.default_rng(seed)
    told, found = [], []
    for count in random.integers(0, 12, 2):
        corners = random.integers(0, 12, (count, 2))
        boxes = np.concatenate([corners, corners + random.integers(3, 9, (count, 2))], 1).astype(np.float32)
        ids, scores = random.integers(0, 2, count).astype(np.int32), np.sort(random.random(count))[::-1]
        labels = tuple("ab"[one] for one in ids)
        told.append(Detections(boxes, scores, ids, labels, 100, 100, **ORIGIN))
        found.append(results.DetectionList(boxes, scores, ids, 100, 100))
    classes = servers.translation(["a", "b"], ["a", "b"])
    expected = servers.agreement(*found, classes, 2)
    assert agreement(*told) == agreement(*told, same_classes=True) == expected


BOX, NEAR, FAR = (0, 0, 10, 10), (0, 0, 10, 8), (50, 50, 60, 60)


@pytest.mark.parametrize(
    ("first", "second", "share"),
    [
        ([], [], 1),
        ([("boot", BOX)], [], 0),
        ([("boot", BOX)], [("boot", NEAR)], 1),
        ([("boot", BOX)], [("bag", BOX)], 0),
        ([("boot", BOX)], [("boot", FAR)], 0),
        # An overlap of a third is another place.
        ([("boot", BOX)], [("boot", (5, 0, 15, 10))], 0),
        # One box has one counterpart.
        ([("boot", BOX), ("boot", NEAR)], [("boot", BOX)], 2 / 3),
        ([("boot", BOX), ("bag", FAR)], [("bag", FAR), ("boot", NEAR)], 1),
        # A box without any area is nowhere.
        ([("boot", (5, 5, 5, 5))], [("boot", (5, 5, 5, 5))], 0),
    ],
)
def test_detections_agree_where_the_same_is_in_the_same_place(first, second, share):
    assert agreement(detections(*first), detections(*second)) == pytest.approx(share)
    assert agreement(detections(*second), detections(*first)) == pytest.approx(share)


def test_segmentations_agree_by_labels_whatever_their_numbers():
    first = segmentation(["cat", "dog"], [1, 1, 2], [1, 2, 2])
    assert agreement(first, first) == 1
    assert agreement(first, segmentation(["dog", "cat"], [2, 2, 1], [2, 1, 1])) == 1
    assert agreement(first, segmentation(["cat", "dog"], [1, 1, 1], [1, 1, 1])) == pytest.approx(0.5)
    assert agreement(first, segmentation(["eel", "ant"], [1, 1, 2], [1, 2, 2])) == 0


def test_what_cannot_be_compared_is_told():
    with pytest.raises(ValueError, match="different kinds"):
        agreement(classification("cat"), detections())
    with pytest.raises(ValueError, match="different sizes"):
        agreement(segmentation(["cat"], [1, 1]), segmentation(["cat"], [1]))
