"""What `classify` answers."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from PIL import Image

from retinue_client._draw import draw_classification
from retinue_client._images import ImageSource, open_upright
from retinue_client._timing import Timing, provenance


@dataclass(frozen=True, slots=True)
class ClassScore:
    """A class and how sure the model is of it.

    Attributes:
        class_id: The class, counted from 0.
        label: The class's name.
        score: Probability, in [0, 1].
    """

    class_id: int
    label: str
    score: float

    def to_dict(self) -> dict[str, Any]:
        """The fields as values that JSON knows."""
        return {"class_id": self.class_id, "label": self.label, "score": self.score}


@dataclass(frozen=True, slots=True, repr=False)
class Classification:
    """The most probable classes of one image.

    Attributes:
        classes: Sorted by descending score. Empty where `min_score` left none.
        model: The model that answered.
        version: Its version.
        timing: Where the time went.
    """

    classes: tuple[ClassScore, ...]
    model: str
    version: int
    timing: Timing

    @property
    def best(self) -> ClassScore:
        """The most probable class.

        Raises:
            LookupError: `min_score` left none.
        """
        if not self.classes:
            raise LookupError("No class reached min_score.")
        return self.classes[0]

    def __iter__(self) -> Iterator[ClassScore]:
        return iter(self.classes)

    def __len__(self) -> int:
        return len(self.classes)

    def __repr__(self) -> str:
        shown = ", ".join(f"{entry.label} {entry.score:.2f}" for entry in self.classes[:3])
        more = f", {len(self.classes) - 3} more" if len(self.classes) > 3 else ""
        return (
            f"<Classification {shown or 'empty'}{more}; {provenance(self.model, self.version, self.timing)}>"
        )

    def to_dict(self) -> dict[str, Any]:
        """The result as values that JSON knows."""
        return {
            "model": self.model,
            "version": self.version,
            "classes": [entry.to_dict() for entry in self.classes],
            "timing": self.timing.to_dict(),
        }

    def draw(self, image: ImageSource) -> Image.Image:
        """Paints the image (RGB, upright) with a panel of the classes and their scores below it.

        Raises:
            ImageError: The image cannot be read.
        """
        return draw_classification(
            open_upright(image), [(c.class_id, c.label, c.score) for c in self.classes]
        )
