"""What `classify` answers."""

import base64
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from retinue_client._draw import draw_classification, draw_heatmap, score_text
from retinue_client._images import ImageSource, open_upright
from retinue_client._masks import heatmap_from_png
from retinue_client._supervision import supervision_classifications
from retinue_client._timing import Timing, provenance

if TYPE_CHECKING:
    import supervision

ArrayT = TypeVar("ArrayT", bound=npt.NDArray[Any])


@dataclass(frozen=True, slots=True, repr=False)
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

    def __repr__(self) -> str:
        return f"<ClassScore {self.label} {self.score:.2f}>"

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
        encoded_heatmap: Where the most probable class is seen, as it came: a PNG file. Empty where it was not
            asked for.
    """

    classes: tuple[ClassScore, ...]
    model: str
    version: int
    timing: Timing
    encoded_heatmap: bytes = b""
    _decoded: list[npt.NDArray[np.uint8]] = field(default_factory=list, init=False, compare=False)

    @property
    def best(self) -> ClassScore:
        """The most probable class.

        Raises:
            LookupError: `min_score` left none.
        """
        if not self.classes:
            raise LookupError("No class reached min_score.")
        return self.classes[0]

    @property
    def scores(self) -> npt.NDArray[np.float32]:
        """The probabilities, read-only float32 [K], descending."""
        return _read_only(np.array([entry.score for entry in self.classes], np.float32))

    @property
    def class_ids(self) -> npt.NDArray[np.int32]:
        """The classes, read-only int32 [K], counted from 0."""
        return _read_only(np.array([entry.class_id for entry in self.classes], np.int32))

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes' names, K of them."""
        return tuple(entry.label for entry in self.classes)

    @property
    def heatmap(self) -> npt.NDArray[np.uint8]:
        """Where the most probable class is seen, read-only uint8 [h, w], decoded when first asked for.

        It covers the whole image, upright, in its size or evenly smaller. 255 is where the image speaks for the
        class most, 0 where it does not or where the model does not look; between them it is proportional.

        Raises:
            LookupError: It was not asked for.
            ResponseError: What came cannot be decoded.
        """
        if not self.encoded_heatmap:
            raise LookupError("There is no heatmap: ask with heatmap=True.")
        if not self._decoded:
            self._decoded.append(_read_only(heatmap_from_png(self.encoded_heatmap)))
        return self._decoded[0]

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
        """The result as values that JSON knows; a heatmap stays a PNG, in base64."""
        fields: dict[str, Any] = {
            "model": self.model,
            "version": self.version,
            "classes": [entry.to_dict() for entry in self.classes],
            "timing": self.timing.to_dict(),
        }
        if self.encoded_heatmap:
            encoded = base64.b64encode(self.encoded_heatmap).decode("ascii")
            fields["heatmap"] = {"format": "png", "base64": encoded}
        return fields

    def to_supervision(self) -> "supervision.Classifications":
        """The classes as those of the supervision package.

        Raises:
            ImportError: It is not installed (`retinue-client[supervision]`).
        """
        return supervision_classifications(self.class_ids, self.scores)

    def draw(self, image: ImageSource) -> Image.Image:
        """Paints the image (RGB, upright) with a panel of the classes and their scores below it.

        Raises:
            ImageError: The image cannot be read.
        """
        return draw_classification(
            open_upright(image), [(c.class_id, c.label, c.score) for c in self.classes]
        )

    def draw_heatmap(self, image: ImageSource) -> Image.Image:
        """Paints the heatmap over the image (RGB, upright), with the name of the class below it.

        Raises:
            ImageError: The image cannot be read.
            LookupError: No heatmap was asked for.
            ResponseError: The heatmap cannot be decoded.
        """
        heatmap = self.heatmap
        name = f"{self.classes[0].label} {score_text(self.classes[0].score)}" if self.classes else ""
        return draw_heatmap(open_upright(image), heatmap, name)


def _read_only(array: ArrayT) -> ArrayT:
    array.flags.writeable = False
    return array
