"""Asks two bundles about the same images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from retinue.v1 import manifest_pb2 as pb

from retinue_export.comparison.classification import ClassificationComparison
from retinue_export.comparison.detection import DetectionComparison
from retinue_export.comparison.labels import SharedLabels
from retinue_export.comparison.pictures import Picture
from retinue_export.comparison.segmentation import SegmentationComparison
from retinue_export.comparison.side import Side
from retinue_export.comparison.task import TaskComparison
from retinue_export.errors import ExportError
from retinue_export.inputs import prepare_one
from retinue_export.inspection.manifest_text import name_of
from retinue_server.errors import EngineError, ImageError
from retinue_server.vision.resize import Frame

Progress = Callable[[int, int], None]
"""Called with how many images are done, of how many."""
_Prepared = tuple[NDArray[np.uint8], Frame]
"""Pixels, uint8 [H,W,C], and the way back from them."""
_BATCH = 8
_COMPARISONS: dict[int, type[TaskComparison[Any, Any]]] = {
    pb.TASK_CLASSIFY: ClassificationComparison,
    pb.TASK_DETECT: DetectionComparison,
    pb.TASK_SEGMENT: SegmentationComparison,
}


@dataclass(frozen=True, slots=True)
class Skipped:
    """An image that could not be read.

    Attributes:
        image: its name.
        reason: a sentence.
    """

    image: str
    reason: str


@dataclass(frozen=True, slots=True)
class Compared:
    """Two bundles compared.

    Attributes:
        comparison: what was found.
        skipped: images that it is not about.
        pictures: those that it is, by name.
    """

    comparison: TaskComparison[Any, Any]
    skipped: list[Skipped]
    pictures: dict[str, Picture]

    def drawn(self, difference: Any) -> Sequence[Image.Image]:
        """Asks both again about an image on which they differ: small pictures of it."""
        picture = self.pictures[difference.image]
        comparison = self.comparison
        a, b = (
            _answers(comparison, side, [_prepared(side, picture)])[0] for side in (comparison.a, comparison.b)
        )
        return comparison.drawn(picture.upright(), difference, a, b)


def compare(a: Side, b: Side, pictures: Sequence[Picture], progress: Progress) -> Compared:
    """Compares two bundles.

    Args:
        a: one.
        b: the other.
        pictures: what to ask them about; those that cannot be read are left out.
        progress: see `Progress`.

    Raises:
        ExportError: the bundles answer different questions, none of the images can be read, or a graph fails.
    """
    if a.manifest.task != b.manifest.task:
        tasks = [name_of(pb.Task.Name(side.manifest.task), "TASK_") for side in (a, b)]
        raise ExportError(
            f"{a.folder} is there to {tasks[0]} and {b.folder} to {tasks[1]}: only bundles of one task can be compared."
        )
    comparison = _COMPARISONS[a.manifest.task](a, b, SharedLabels(a.manifest.labels, b.manifest.labels))
    compared = Compared(comparison, [], {})
    for start in range(0, len(pictures), _BATCH):
        _add(compared, pictures[start : start + _BATCH])
        progress(min(start + _BATCH, len(pictures)), len(pictures))
    if not compared.pictures:
        first = compared.skipped[0]
        raise ExportError(
            f"None of the {len(pictures)} images can be read; the first, {first.image}: {first.reason}"
        )
    return compared


def _add(compared: Compared, group: Sequence[Picture]) -> None:
    """Asks both bundles about some images at once."""
    comparison = compared.comparison
    names: list[str] = []
    for_a: list[_Prepared] = []
    for_b: list[_Prepared] = []
    for picture in group:
        try:
            pair = _prepared(comparison.a, picture), _prepared(comparison.b, picture)
        except ImageError as error:
            compared.skipped.append(Skipped(picture.name, error.message))
            continue
        compared.pictures[picture.name] = picture
        names.append(picture.name)
        for_a.append(pair[0])
        for_b.append(pair[1])
    if names:
        answers_a = _answers(comparison, comparison.a, for_a)
        answers_b = _answers(comparison, comparison.b, for_b)
        for name, answer_a, answer_b in zip(names, answers_a, answers_b, strict=True):
            comparison.add(name, answer_a, answer_b)


def _prepared(side: Side, picture: Picture) -> _Prepared:
    return prepare_one(picture.open(), side.spec)


def _answers(comparison: TaskComparison[Any, Any], side: Side, prepared: Sequence[_Prepared]) -> list[Any]:
    """What a bundle says of images prepared by its own rule."""
    rows = side.answers([pixels for pixels, _ in prepared])
    try:
        return [comparison.read(side, row, frame) for row, (_, frame) in zip(rows, prepared, strict=True)]
    except EngineError as error:
        raise ExportError(f"{side.folder}: {error.message}") from error
