"""Two detectors compared: which objects both find in an image, and which only one does."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]
from torchvision.ops import box_iou

from retinue_export.comparison import drawing
from retinue_export.comparison.labels import SharedLabels
from retinue_export.comparison.side import Side
from retinue_export.comparison.task import Figure, ImageDifference, TaskComparison
from retinue_export.parity import Outputs
from retinue_export.quantities import percent
from retinue_server.errors import EngineError
from retinue_server.vision.detect import Detections, to_original
from retinue_server.vision.resize import Frame

_SAME_OBJECT_IOU = 0.5
_NEARLY_EQUAL_IOU = 0.99
_NEARLY_EQUAL_SCORE = 1e-3
"""As in `parity.disagreement`."""
_LISTED = 6
_LONGEST_LABEL = 24


@dataclass(frozen=True, slots=True)
class Found:
    """An object that one bundle finds.

    Attributes:
        label: its class.
        score: in (0, 1].
        box: x1, y1, x2, y2 in the image's pixels.
    """

    label: str
    score: float
    box: tuple[float, ...]

    def __str__(self) -> str:
        return f"{self.label} {self.score:.2f}"


@dataclass(frozen=True, slots=True)
class Redetected(ImageDifference):
    """An image in which one bundle finds what the other does not.

    Attributes:
        in_both: how many objects both find.
        only_in_a: what B does not find, surest first.
        only_in_b: what A does not find.
    """

    in_both: int
    only_in_a: list[Found]
    only_in_b: list[Found]


class DetectionComparison(TaskComparison[Detections, Redetected]):
    """Matches detections one to one where their class is the same and their boxes overlap by half or more.

    Each bundle's own default threshold decides what it finds. See `TaskComparison`.
    """

    headings = ("image", "both", "only A", "only B")
    drawn_note = "Orange: only this bundle finds it. Thin blue: both do."
    class_headings = ("class", "both", "only A", "only B")

    def __init__(self, a: Side, b: Side, labels: SharedLabels) -> None:
        super().__init__(a, b, labels)
        self._differences: list[Redetected] = []
        self._score_differences: list[float] = []
        self._overlaps: list[float] = []
        self._both: Counter[int] = Counter()
        self._only_a: Counter[int] = Counter()
        self._only_b: Counter[int] = Counter()

    def read(self, side: Side, outputs: Outputs, frame: Frame) -> Detections:
        """See `TaskComparison`; `classes` are shared ids already."""
        detections = to_original(
            outputs["boxes"].astype(np.float32, copy=False),
            outputs["scores"].astype(np.float32, copy=False),
            outputs["classes"].astype(np.int32, copy=False),
            frame,
            score_threshold=side.manifest.detect.default_score_threshold,
        )
        shared = self.labels.of_a if side is self.a else self.labels.of_b
        found = detections.classes
        if found.size and not 0 <= found.min() <= found.max() < len(shared):
            raise EngineError(f"the graph finds a class outside of its {len(shared)} labels.")
        return replace(detections, classes=shared[found].astype(np.int32))

    def add(self, image: str, a: Detections, b: Detections) -> None:
        """See `TaskComparison`."""
        self.images += 1
        left, right, overlaps = _matched(a, b)
        self._overlaps += overlaps.tolist()
        self._score_differences += np.abs(a.scores[left] - b.scores[right]).tolist()
        alone_a, alone_b = _others(left, len(a.scores)), _others(right, len(b.scores))
        self._both.update(a.classes[left].tolist())
        self._only_a.update(a.classes[alone_a].tolist())
        self._only_b.update(b.classes[alone_b].tolist())
        if len(alone_a) or len(alone_b):
            self._differences.append(
                Redetected(image, len(left), self._found(a, alone_a), self._found(b, alone_b))
            )

    @property
    def agreement(self) -> float:
        """The share of all detections that the other side has too; 1 where there are none."""
        both = 2 * self._both.total()
        every = both + self._only_a.total() + self._only_b.total()
        return both / every if every else 1.0

    def figures(self) -> list[Figure]:
        """See `TaskComparison`."""
        both, scores, overlaps = self._both.total(), self._score_differences, self._overlaps
        nearly_equal = sum(
            overlap > _NEARLY_EQUAL_IOU and score <= _NEARLY_EQUAL_SCORE
            for overlap, score in zip(overlaps, scores, strict=True)
        )
        return [
            Figure("matched", "detections both have", self.agreement, percent(self.agreement)),
            Figure("in_both", "found by both", both, str(both)),
            Figure("only_in_a", "only by A", self._only_a.total(), str(self._only_a.total())),
            Figure("only_in_b", "only by B", self._only_b.total(), str(self._only_b.total())),
            _of_matched("mean_iou", "mean IoU of the boxes", _mean(overlaps)),
            _of_matched("mean_score_difference", "mean score difference", _mean(scores)),
            _of_matched("max_score_difference", "largest score difference", max(scores, default=None)),
            Figure(
                "nearly_equal",
                "of both nearly equal",
                nearly_equal / both if both else None,
                percent(nearly_equal / both) if both else "none found",
            ),
        ]

    def differences(self) -> list[Redetected]:
        """Those first where a side is surest of what the other does not find."""

        def surest(difference: Redetected) -> float:
            return max(found.score for found in (*difference.only_in_a, *difference.only_in_b))

        return sorted(self._differences, key=surest, reverse=True)

    def row(self, difference: Redetected) -> tuple[str, ...]:
        """See `TaskComparison`."""
        return (
            difference.image,
            str(difference.in_both),
            _listed(difference.only_in_a),
            _listed(difference.only_in_b),
        )

    def classes(self) -> list[dict[str, Any]]:
        """How many objects of each class that either finds."""
        ids = {*self._both, *self._only_a, *self._only_b}
        alone = {number: self._only_a[number] + self._only_b[number] for number in ids}
        return [
            {
                "label": self.labels.names[number],
                "in_both": self._both[number],
                "only_in_a": self._only_a[number],
                "only_in_b": self._only_b[number],
            }
            for number in sorted(ids, key=lambda number: (-alone[number], number))
        ]

    def class_rows(self) -> list[tuple[str, ...]]:
        """See `TaskComparison`."""
        return [
            (entry["label"], str(entry["in_both"]), str(entry["only_in_a"]), str(entry["only_in_b"]))
            for entry in self.classes()
        ]

    def drawn(
        self, upright: Image.Image, difference: Redetected, a: Detections, b: Detections
    ) -> Sequence[Image.Image]:
        """What each side finds: in colour what only it does."""
        left, right, _ = _matched(a, b)
        return [
            drawing.detections(upright, detections.boxes, self._texts(detections, matched))
            for detections, matched in ((a, left), (b, right))
        ]

    def _texts(self, detections: Detections, matched: NDArray[np.int64]) -> dict[int, str]:
        """What is written on the detections that are not matched, by row, surest last."""
        alone = _others(matched, len(detections.scores))
        return {
            int(
                row
            ): f"{self.labels.names[detections.classes[row]][:_LONGEST_LABEL]} {detections.scores[row]:.2f}"
            for row in alone[::-1]
        }

    def _found(self, detections: Detections, rows: NDArray[np.int64]) -> list[Found]:
        return [
            Found(
                self.labels.names[detections.classes[row]],
                float(detections.scores[row]),
                tuple(detections.boxes[row].tolist()),
            )
            for row in rows
        ]


def _matched(
    a: Detections, b: Detections
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Pairs detections so that their boxes overlap by as much as possible: rows of A, rows of B, their overlaps."""
    overlaps = box_iou(torch.from_numpy(a.boxes), torch.from_numpy(b.boxes)).numpy().astype(np.float64)
    same = (a.classes[:, np.newaxis] == b.classes) & (overlaps >= _SAME_OBJECT_IOU)
    left, right = linear_sum_assignment(np.where(same, overlaps, 0), maximize=True)
    real = same[left, right]
    return left[real], right[real], overlaps[left, right][real]


def _others(rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    return np.setdiff1d(np.arange(count), rows)


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _of_matched(name: str, words: str, value: float | None) -> Figure:
    return Figure(name, words, value, "none found" if value is None else f"{value:.2g}")


def _listed(found: Sequence[Found]) -> str:
    more = f", {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    return ", ".join(map(str, found[:_LISTED])) + more or "-"
