"""What the comparison of each task offers to those who run and show it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from PIL import Image

from retinue_export.comparison.labels import SharedLabels
from retinue_export.comparison.side import Side
from retinue_export.parity import Outputs
from retinue_server.vision.resize import Frame

Answer = TypeVar("Answer")
"""What a bundle says of one image, in the original's pixels."""
Difference = TypeVar("Difference", bound="ImageDifference")


@dataclass(frozen=True, slots=True)
class Figure:
    """One measure of how far two bundles agree.

    Attributes:
        name: for programs.
        words: for people.
        value: None where there is nothing to measure it on.
        text: the value with its unit.
    """

    name: str
    words: str
    value: float | None
    text: str


@dataclass(frozen=True, slots=True)
class ImageDifference:
    """An image on which two bundles differ; subclasses say how.

    Attributes:
        image: its name.
    """

    image: str


class TaskComparison(ABC, Generic[Answer, Difference]):
    """Gathers what two bundles say of image after image.

    Args:
        a: one bundle.
        b: the other.
        labels: the classes of both.
    """

    headings: tuple[str, ...]
    """Of the columns that `row` gives."""
    class_headings: tuple[str, ...] = ()
    """Of the columns that `class_rows` gives."""
    drawn_note: str = ""
    """What colours in `drawn` mean."""

    def __init__(self, a: Side, b: Side, labels: SharedLabels) -> None:
        self.a = a
        self.b = b
        self.labels = labels
        self.images = 0

    @abstractmethod
    def read(self, side: Side, outputs: Outputs, frame: Frame) -> Answer:
        """Brings one row of a graph's outputs into the original image.

        Raises:
            EngineError: it is nothing that a network in order would give.
        """

    @abstractmethod
    def add(self, image: str, a: Answer, b: Answer) -> None:
        """Compares the answers to one image."""

    @property
    @abstractmethod
    def agreement(self) -> float:
        """The figure that stands for all, in [0, 1]: the first of `figures`."""

    @abstractmethod
    def figures(self) -> list[Figure]:
        """All measures over all images."""

    @abstractmethod
    def differences(self) -> list[Difference]:
        """The images on which they differ, what is most worth looking at first."""

    @abstractmethod
    def row(self, difference: Difference) -> tuple[str, ...]:
        """A difference in words, a text for each of `headings`."""

    def classes(self) -> list[dict[str, Any]]:
        """Measures of each class, those that differ most first; none where the task has none."""
        return []

    def class_rows(self) -> list[tuple[str, ...]]:
        """The same as text, one for each of `class_headings`."""
        return []

    def legend(self) -> list[tuple[str, str]]:
        """Classes and their colours in `drawn`, as CSS writes them; none where colours are not of classes."""
        return []

    @abstractmethod
    def drawn(
        self, upright: Image.Image, difference: Difference, a: Answer, b: Answer
    ) -> Sequence[Image.Image]:
        """Small pictures that show a difference: one for both answers, or A's, B's and what else helps.

        Args:
            upright: the image, mode "RGB".
            difference: see `differences`.
            a: what one bundle says of it.
            b: what the other does.
        """
