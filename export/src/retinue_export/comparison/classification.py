"""Two classifiers compared: which class they find most probable, and how probable."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray
from PIL import Image

from retinue_export.comparison import drawing
from retinue_export.comparison.labels import SharedLabels
from retinue_export.comparison.side import Side
from retinue_export.comparison.task import Figure, ImageDifference, TaskComparison
from retinue_export.parity import Outputs
from retinue_export.quantities import percent
from retinue_server.errors import EngineError
from retinue_server.vision.classify import best, check_probabilities
from retinue_server.vision.resize import Frame

_TOP = 5

Probabilities = NDArray[np.float32]
"""float32 [K], by the class ids of the bundle."""


@dataclass(frozen=True, slots=True)
class Named:
    """A class and its probability."""

    label: str
    score: float

    def __str__(self) -> str:
        return f"{self.label} {self.score:.2f}"


@dataclass(frozen=True, slots=True)
class Reclassified(ImageDifference):
    """An image whose most probable class is another one.

    Attributes:
        a: A's class.
        b: B's class.
    """

    a: Named
    b: Named


class ClassificationComparison(TaskComparison[Probabilities, Reclassified]):
    """See `TaskComparison`."""

    headings = ("image", "A", "B")

    def __init__(self, a: Side, b: Side, labels: SharedLabels) -> None:
        super().__init__(a, b, labels)
        self._differences: list[Reclassified] = []
        self._top_shared = 0.0
        self._largest = 0.0
        self._total = 0.0

    def read(self, side: Side, outputs: Outputs, frame: Frame) -> Probabilities:
        """See `TaskComparison`."""
        probabilities = outputs["probabilities"].astype(np.float32, copy=False)
        classes = len(side.manifest.labels)
        if probabilities.shape != (classes,):
            raise EngineError(f"the graph gives {probabilities.size} probabilities for {classes} labels.")
        check_probabilities(probabilities)
        return probabilities

    def add(self, image: str, a: Probabilities, b: Probabilities) -> None:
        """See `TaskComparison`."""
        self.images += 1
        (top_a, scores_a), (top_b, scores_b) = _best(a), _best(b)
        shared_a, shared_b = self.labels.of_a[top_a], self.labels.of_b[top_b]
        self._top_shared += len(np.intersect1d(shared_a, shared_b)) / min(len(top_a), len(top_b))
        if shared_a[0] != shared_b[0]:
            names = self.labels.names
            self._differences.append(
                Reclassified(
                    image,
                    Named(names[shared_a[0]], float(scores_a[0])),
                    Named(names[shared_b[0]], float(scores_b[0])),
                )
            )
        if self.labels.are_the_same:
            both = np.zeros((2, len(self.labels.names)))
            both[0, self.labels.of_a], both[1, self.labels.of_b] = a, b
            apart = np.abs(both[0] - both[1])
            self._largest = max(self._largest, float(apart.max()))
            self._total += float(apart.mean())

    @property
    def agreement(self) -> float:
        """The share of images whose most probable class is the same."""
        return 1 - len(self._differences) / self.images

    def figures(self) -> list[Figure]:
        """See `TaskComparison`."""
        top_shared = self._top_shared / self.images
        shown = min(_TOP, len(self.labels.of_a), len(self.labels.of_b))
        same = self.labels.are_the_same
        return [
            Figure("top1_agreement", "same top class", self.agreement, percent(self.agreement)),
            Figure("top5_overlap", f"shared of the top {shown}", top_shared, percent(top_shared)),
            _difference("mean_difference", "mean", self._total / self.images if same else None),
            _difference("max_difference", "largest", self._largest if same else None),
        ]

    def differences(self) -> list[Reclassified]:
        """Those first of which both sides are surest."""
        return sorted(self._differences, key=lambda one: min(one.a.score, one.b.score), reverse=True)

    def row(self, difference: Reclassified) -> tuple[str, ...]:
        """See `TaskComparison`."""
        return difference.image, str(difference.a), str(difference.b)

    def drawn(
        self, upright: Image.Image, difference: Reclassified, a: Probabilities, b: Probabilities
    ) -> Sequence[Image.Image]:
        """The image alone: the answers are words."""
        return [drawing.small(upright)]


def _best(probabilities: Probabilities) -> tuple[npt.NDArray[np.intp], Probabilities]:
    (classes,), (scores,) = best(probabilities[None], _TOP)
    return classes, scores


def _difference(name: str, which: str, value: float | None) -> Figure:
    text = "not known, since the labels differ" if value is None else f"{value:.2g}"
    return Figure(name, f"{which} probability difference", value, text)
