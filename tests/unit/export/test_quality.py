"""Figures on labelled images: all right is 1, all wrong is 0, half is half."""

from typing import Any

import numpy as np
import pytest
from PIL import Image
from retinue.v1 import manifest_pb2 as pb

from retinue_export import quality
from retinue_export.parity import Outputs
from retinue_export.scenes import Scene
from retinue_server.vision.spec import InputSpec, ResizeMode

SPEC = InputSpec(
    height=32,
    width=32,
    grey=False,
    resize_mode=ResizeMode.LETTERBOX,
    resample=Image.Resampling.BILINEAR,
    pad_value=114,
)


def scene(left: int) -> Scene:
    """One object of class 1 in a 64 x 32 picture, which the letterbox halves and puts 8 pixels down."""
    owner_map = np.zeros((32, 64), np.uint8)
    owner_map[8:24, left : left + 16] = 1
    box = np.array([[left, 8, left + 16, 24]], np.float32)
    return Scene(np.zeros((32, 64, 3), np.uint8), box, np.array([1]), np.array([0]), owner_map)


SCENES = [scene(8), scene(32)]


class Answers:
    """Gives prepared answers image by image, whatever the batches."""

    def __init__(self, **answers: np.ndarray) -> None:
        self._answers = answers
        self._next = 0

    def __call__(self, images: np.ndarray) -> Outputs:
        start, self._next = self._next, self._next + len(images)
        return {name: values[start : self._next] for name, values in self._answers.items()}


def detections(class_id: int = 1, shift: float = 0, score: float = 0.9) -> Answers:
    boxes = np.stack([scene.boxes / 2 + np.array([0, 8, 0, 8], np.float32) for scene in SCENES]) + shift
    return Answers(
        boxes=boxes.astype(np.float32),
        scores=np.full((2, 1), score, np.float32),
        classes=np.full((2, 1), class_id, np.int32),
    )


def test_accuracy_is_the_share_of_right_answers() -> None:
    answered = np.eye(3, dtype=np.float32)[[0, 1, 2, 2]]
    images = np.zeros((4, 2, 2, 1), np.uint8)
    labels = np.array([0, 1, 2, 0])
    assert quality.top1_accuracy(Answers(probabilities=answered), images, labels) == pytest.approx(0.75)


def agreement(task: pb.Task.ValueType, reference: Answers, runner: Answers) -> dict[str, float]:
    images = np.zeros((2, 32, 32, 3), np.uint8)
    return quality.agreement(task, reference, runner, images, least_score=0.5)


def test_classifiers_agree_on_images() -> None:
    first, second = (np.eye(3, dtype=np.float32)[rows] for rows in ([0, 1], [0, 2]))
    figures = agreement(pb.TASK_CLASSIFY, Answers(probabilities=first), Answers(probabilities=second))
    assert figures == {"top1_agreement": 0.5}


def test_segmenters_agree_on_pixels() -> None:
    first, second = np.zeros((2, 4, 4), np.uint8), np.zeros((2, 4, 4), np.uint8)
    second[1, 0] = 3
    figures = agreement(pb.TASK_SEGMENT, Answers(class_map=first), Answers(class_map=second))
    assert figures == {"pixel_agreement": 1 - 4 / 32}


@pytest.mark.parametrize(
    ("other", "part"),
    [
        ({}, 1),
        ({"shift": 1}, 1),
        ({"shift": 6}, 0),
        ({"class_id": 0}, 0),
        ({"score": 0.6}, 1),
        ({"score": 0.4}, 0),
        ({"score": np.nan}, 0),
    ],
)
def test_detectors_agree_on_what_both_find(other: dict[str, Any], part: float) -> None:
    assert agreement(pb.TASK_DETECT, detections(), detections(**other)) == {"detection_agreement": part}
    assert agreement(pb.TASK_DETECT, detections(**other), detections()) == {"detection_agreement": part}


@pytest.mark.parametrize("score", [0, 0.49])
def test_detectors_that_find_nothing_do_not_agree_on_anything(score: float) -> None:
    assert agreement(pb.TASK_DETECT, detections(score=score), detections(score=0)) == {}


def test_boxes_in_the_right_place_of_the_original_are_precise() -> None:
    figures = quality.average_precision(detections(), SCENES, SPEC, ["a", "b"])
    assert figures == {"map_50": pytest.approx(1.0), "map_50_95": pytest.approx(1.0)}


def test_each_picture_is_read_once() -> None:
    read = []

    class Counted:
        boxes, classes, class_map = SCENES[0].boxes, SCENES[0].classes, SCENES[0].class_map

        @property
        def image(self) -> np.ndarray:
            read.append(self)
            return SCENES[0].image

    quality.average_precision(detections(), [Counted(), Counted()], SPEC, ["a", "b"])
    assert len(read) == 2


def test_the_right_place_with_the_wrong_class_counts_nothing() -> None:
    assert quality.average_precision(detections(class_id=0), SCENES, SPEC, ["a", "b"])["map_50"] == 0


def test_a_box_a_little_off_counts_at_half_overlap_only() -> None:
    figures = quality.average_precision(detections(shift=1), SCENES, SPEC, ["a", "b"])
    assert figures["map_50"] == pytest.approx(1.0)
    assert figures["map_50_95"] < 0.5


def test_no_detection_at_all_is_zero_and_no_error() -> None:
    nothing = Answers(
        boxes=np.zeros((2, 1, 4), np.float32),
        scores=np.zeros((2, 1), np.float32),
        classes=np.zeros((2, 1), np.int32),
    )
    assert quality.average_precision(nothing, SCENES, SPEC, ["a", "b"]) == {"map_50": 0.0, "map_50_95": 0.0}


def maps(fill: int) -> Answers:
    answered = np.zeros((2, 32, 32), np.uint8)
    for number, made in enumerate(SCENES):
        answered[number, 8:24] = np.where(made.class_map[::2, ::2] > 0, fill, 0)
    return Answers(class_map=answered)


def test_a_right_class_map_has_full_overlap() -> None:
    assert quality.mean_iou(maps(fill=2), SCENES, SPEC, 3) == pytest.approx(1.0)


def test_a_wrong_class_counts_against_both_classes() -> None:
    # Background is right; class 1 is claimed and not there, class 2 is there and not claimed.
    assert quality.mean_iou(maps(fill=1), SCENES, SPEC, 3) == pytest.approx(1 / 3)
