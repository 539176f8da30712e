"""Figures on labelled images: accuracy, mean average precision, mean intersection over union.

Each measures what a caller of the server gets: images prepared and answers brought back to the original's pixels by the
server's own code.
"""

import contextlib
import io
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from retinue.v1 import manifest_pb2 as pb

from retinue_export import parity
from retinue_export.inputs import Uint8, prepare_one
from retinue_export.parity import Runner
from retinue_server.vision import detect, segment
from retinue_server.vision.spec import InputSpec

NO_CLASS = 255
"""What a class map says of pixels that are not to be counted, where it is no class."""
_BATCH = 32


class Labelled(Protocol):
    """A picture and what is in it."""

    @property
    def image(self) -> Uint8:
        """uint8 [H,W,3], RGB."""

    @property
    def boxes(self) -> NDArray[np.float32]:
        """float32 [K,4], x1,y1,x2,y2 in pixels of `image`."""

    @property
    def classes(self) -> NDArray[np.int64]:
        """int64 [K], class ids of the boxes."""

    @property
    def class_map(self) -> Uint8:
        """uint8 [H,W], the class of each pixel."""


def top1_accuracy(runner: Runner, images: Uint8, labels: NDArray[np.int64]) -> float:
    """The share of images whose most probable class is right.

    Args:
        runner: gives `probabilities`.
        images: uint8 [N,H,W,C], prepared.
        labels: int64 [N].
    """
    right = 0
    for start in range(0, len(images), 500):
        answered = runner(images[start : start + 500])["probabilities"].argmax(axis=1)
        right += int((answered == labels[start : start + 500]).sum())
    return right / len(images)


def agreement(
    task: pb.Task.ValueType, reference: Runner, runner: Runner, images: Uint8, least_score: float
) -> dict[str, float]:
    """How often a network answers as another does, which needs no labels.

    Args:
        task: of both.
        reference: answers in full precision.
        runner: answers in fewer bits.
        images: uint8 [N,H,W,C], prepared.
        least_score: of a detector's detections, those that count.

    Returns:
        `top1_agreement`, the share of images with the same most probable class; `pixel_agreement`, the share of pixels
        with the same class; or `detection_agreement`, the share of detections that the other side has too, of the same
        class and with an intersection over union above 0.5. Nothing where neither side detects anything.
    """
    size = min(_BATCH, len(images))
    expected, actual = (parity.answers(side, images, size) for side in (reference, runner))
    if task == pb.TASK_CLASSIFY:
        first, second = (side["probabilities"].argmax(axis=1) for side in (expected, actual))
        return {"top1_agreement": float((first == second).mean())}
    if task == pb.TASK_SEGMENT:
        return {"pixel_agreement": float((expected["class_map"] == actual["class_map"]).mean())}
    if not any(parity.finds(side, least_score) for side in (expected, actual)):
        return {}
    apart = parity.disagreement(expected, actual, least_score, overlap=0.5, score_distance=1.0)
    return {"detection_agreement": 1 - apart}


def average_precision(
    runner: Runner, scenes: Sequence[Labelled], spec: InputSpec, class_names: Sequence[str]
) -> dict[str, float]:
    """Mean average precision by the COCO protocol, boxes in the original scenes' pixels.

    Args:
        runner: gives `boxes`, `scores` and `classes`.
        scenes: what to detect in.
        spec: how scenes are prepared.
        class_names: by class id.

    Returns:
        `map_50` at an intersection over union of 0.5, and `map_50_95`, the mean over 0.5, 0.55, ..., 0.95.
    """
    found = []
    sizes = []
    for start, group in enumerate(_groups(scenes)):
        prepared = [prepare_one(Image.fromarray(scene.image), spec) for scene in group]
        answers = runner(np.stack([pixels for pixels, _ in prepared]))
        for row, (_, frame) in enumerate(prepared):
            detections = detect.to_original(
                answers["boxes"][row],
                answers["scores"][row],
                answers["classes"][row],
                frame,
                score_threshold=0.0,
            )
            sizes.append((frame.original_height, frame.original_width))
            number = start * _BATCH + row + 1
            corners = detections.boxes
            boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()
            for box, score, class_id in zip(boxes, detections.scores, detections.classes, strict=True):
                found.append(
                    {"image_id": number, "category_id": int(class_id) + 1, "bbox": box, "score": float(score)}
                )
    if not found:
        return {"map_50": 0.0, "map_50_95": 0.0}
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        truth = COCO()
        truth.dataset = _coco_dataset(scenes, sizes, class_names)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {"map_50": float(evaluation.stats[1]), "map_50_95": float(evaluation.stats[0])}


def mean_iou(
    runner: Runner,
    scenes: Sequence[Labelled],
    spec: InputSpec,
    classes: int,
    background: int | None = 0,
) -> float:
    """Intersection over union of each class over all pixels of all scenes, averaged over the classes.

    Args:
        runner: gives `class_map`.
        scenes: what to segment; class maps are compared at their size.
        spec: how scenes are prepared.
        classes: how many there are, background included.
        background: the class of pixels that a centre crop cuts off, see `segment.to_original`.
    """
    confusion = np.zeros((classes, classes), np.int64)
    for group in _groups(scenes):
        prepared = [prepare_one(Image.fromarray(scene.image), spec) for scene in group]
        maps = runner(np.stack([pixels for pixels, _ in prepared]))["class_map"]
        for scene, class_map, (_, frame) in zip(group, maps, prepared, strict=True):
            answered = segment.to_original(segment.checked(class_map, classes), frame, background=background)
            truth = scene.class_map
            counted = truth < classes
            pairs = truth[counted].astype(np.int64) * classes + answered[counted]
            confusion += np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    shared = np.diag(confusion)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - shared
    return float((shared[union > 0] / union[union > 0]).mean())


def _groups(scenes: Sequence[Labelled]) -> list[tuple[Labelled, ...]]:
    """Cuts scenes into groups that run together."""
    return [tuple(scenes[start : start + _BATCH]) for start in range(0, len(scenes), _BATCH)]


def _coco_dataset(
    scenes: Sequence[Labelled], sizes: Sequence[tuple[int, int]], class_names: Sequence[str]
) -> dict[str, list[dict[str, object]]]:
    """COCO's form of what is in scenes; `sizes` are their heights and widths, so that no image is read again."""
    annotations: list[dict[str, object]] = []
    images: list[dict[str, object]] = []
    for number, (scene, (height, width)) in enumerate(zip(scenes, sizes, strict=True), start=1):
        images.append({"id": number, "height": height, "width": width})
        for (x1, y1, x2, y2), class_id in zip(scene.boxes.tolist(), scene.classes.tolist(), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": class_id + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
            )
    return {
        "info": [],
        "images": images,
        "categories": [{"id": number, "name": name} for number, name in enumerate(class_names, start=1)],
        "annotations": annotations,
    }
