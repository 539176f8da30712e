"""Two segmenters compared: which pixels have the same class."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from retinue_export.comparison import drawing
from retinue_export.comparison.labels import SharedLabels
from retinue_export.comparison.side import Side
from retinue_export.comparison.task import Figure, ImageDifference, TaskComparison
from retinue_export.parity import Outputs
from retinue_export.quantities import percent
from retinue_server.vision.resize import Frame
from retinue_server.vision.segment import checked, to_original

ClassMap = NDArray[np.int32]
_LISTED = 3


@dataclass(frozen=True, slots=True)
class Confusion:
    """Pixels of one class to A and of another to B.

    Attributes:
        a: A's class.
        b: B's class.
        share: of the image's pixels.
    """

    a: str
    b: str
    share: float

    def __str__(self) -> str:
        return f"{self.a} / {self.b} {percent(self.share)}"


@dataclass(frozen=True, slots=True)
class Resegmented(ImageDifference):
    """An image of which some pixels have another class.

    Attributes:
        agreement: the share of its pixels that have the same.
        confusions: what the others are, most first.
    """

    agreement: float
    confusions: list[Confusion]


class SegmentationComparison(TaskComparison[ClassMap, Resegmented]):
    """See `TaskComparison`. Class maps are int32 [original height, original width], of shared ids."""

    headings = ("image", "same pixels", "A / B where they differ")
    drawn_note = "Orange: pixels that have another class."
    class_headings = ("class", "IoU", "of all pixels to A", "to B")

    def __init__(self, a: Side, b: Side, labels: SharedLabels) -> None:
        super().__init__(a, b, labels)
        self._differences: list[Resegmented] = []
        self._agreements: list[float] = []
        self._intersection = np.zeros(len(labels.names), np.int64)
        self._area_a = np.zeros(len(labels.names), np.int64)
        self._area_b = np.zeros(len(labels.names), np.int64)

    def read(self, side: Side, outputs: Outputs, frame: Frame) -> ClassMap:
        """See `TaskComparison`."""
        background = side.manifest.segment.background_class_id
        class_map = to_original(
            checked(outputs["class_map"], len(side.manifest.labels)),  # type: ignore[arg-type]
            frame,
            background=None if background < 0 else background,
        )
        shared = self.labels.of_a if side is self.a else self.labels.of_b
        return shared.astype(np.int32)[class_map]

    def add(self, image: str, a: ClassMap, b: ClassMap) -> None:
        """See `TaskComparison`."""
        self.images += 1
        classes = len(self.labels.names)
        same = a == b
        self._area_a += np.bincount(a.ravel(), minlength=classes)
        self._area_b += np.bincount(b.ravel(), minlength=classes)
        self._intersection += np.bincount(a[same], minlength=classes)
        agreement = float(same.mean())
        self._agreements.append(agreement)
        if agreement < 1:
            self._differences.append(Resegmented(image, agreement, self._confusions(a, b)))

    @property
    def agreement(self) -> float:
        """The share of the pixels that have the same class: the mean over the images."""
        return float(np.mean(self._agreements))

    def figures(self) -> list[Figure]:
        """See `TaskComparison`."""
        overlaps = list(self._ious().values())
        mean = float(np.mean(overlaps))
        worst = min(self._agreements)
        return [
            Figure("pixel_agreement", "pixels of the same class", self.agreement, percent(self.agreement)),
            Figure("min_pixel_agreement", "in the worst image", worst, percent(worst)),
            Figure("mean_iou", "mean IoU of the classes", mean, f"{mean:.4f}"),
        ]

    def differences(self) -> list[Resegmented]:
        """Those first where the fewest pixels agree."""
        return sorted(self._differences, key=lambda one: one.agreement)

    def row(self, difference: Resegmented) -> tuple[str, ...]:
        """See `TaskComparison`."""
        shown = difference.confusions[:_LISTED]
        more = len(difference.confusions) - len(shown)
        others = f", {more} more" if more else ""
        return difference.image, percent(difference.agreement), ", ".join(map(str, shown)) + others

    def classes(self) -> list[dict[str, Any]]:
        """Overlap and share of the pixels of each class that either sees anywhere."""
        ious, pixels = self._ious(), int(self._area_a.sum())
        return [
            {
                "label": self.labels.names[number],
                "iou": ious[number],
                "share_in_a": int(self._area_a[number]) / pixels,
                "share_in_b": int(self._area_b[number]) / pixels,
            }
            for number in sorted(ious, key=ious.__getitem__)
        ]

    def class_rows(self) -> list[tuple[str, ...]]:
        """See `TaskComparison`."""
        return [
            (
                entry["label"],
                f"{entry['iou']:.4f}",
                percent(entry["share_in_a"]),
                percent(entry["share_in_b"]),
            )
            for entry in self.classes()
        ]

    def drawn(
        self, upright: Image.Image, difference: Resegmented, a: ClassMap, b: ClassMap
    ) -> Sequence[Image.Image]:
        """The image tinted by the classes of each side, and where they are not the same."""
        tinted = [drawing.tinted(upright, class_map, self._background()) for class_map in (a, b)]
        return [*tinted, drawing.marked(upright, a != b)]

    def legend(self) -> list[tuple[str, str]]:
        """See `TaskComparison`."""
        return [
            (self.labels.names[number], drawing.css_colour(number))
            for number in sorted(self._ious())
            if number != self._background()
        ]

    def _background(self) -> int | None:
        """The shared id of A's background; None where it has none."""
        background = self.a.manifest.segment.background_class_id
        return None if background < 0 else int(self.labels.of_a[background])

    def _ious(self) -> dict[int, float]:
        """By shared id: pixels that both give a class over pixels that either gives it."""
        union = self._area_a + self._area_b - self._intersection
        return {
            int(number): float(self._intersection[number] / union[number]) for number in np.flatnonzero(union)
        }

    def _confusions(self, a: ClassMap, b: ClassMap) -> list[Confusion]:
        names = self.labels.names
        unlike = a != b
        pairs = a[unlike].astype(np.int64) * len(names) + b[unlike]
        found, counts = np.unique(pairs, return_counts=True)
        return [
            Confusion(
                names[found[place] // len(names)],
                names[found[place] % len(names)],
                float(counts[place] / a.size),
            )
            for place in np.argsort(-counts, kind="stable")
        ]
