"""What `detect` answers."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt
from PIL import Image

from retinue_client._classification import ClassScore
from retinue_client._draw import draw_detections, draw_masks
from retinue_client._images import ImageSource, open_upright
from retinue_client._segmentation import RleMask
from retinue_client._supervision import supervision_detections
from retinue_client._timing import Timing, provenance

if TYPE_CHECKING:
    import supervision

_MOST_DRAWN = 5000


@dataclass(frozen=True, slots=True, repr=False)
class Keypoint:
    """A named point of an object.

    Attributes:
        name: Such as "left_shoulder".
        x: To the right, in the original image's pixels.
        y: Down, likewise.
        score: How sure the network is of it: its own score, of any range, higher is surer.
    """

    name: str
    x: float
    y: float
    score: float

    def __repr__(self) -> str:
        return f"<Keypoint {self.name} at {self.x:.1f}, {self.y:.1f}>"


@dataclass(frozen=True, slots=True, repr=False)
class Detection:
    """One object in an image.

    The box is in the original image's pixels: origin in the top left corner, x to the right, y down,
    continuous coordinates (the image spans 0 to its width), clipped to the image.

    Attributes:
        x_min: Left edge.
        y_min: Top edge.
        x_max: Right edge.
        y_max: Bottom edge.
        score: Confidence, in [0, 1].
        class_id: The class, counted from 0.
        label: The class's name.
        mask: Which pixels of the image show it, where masks were asked for; `mask.decode()` gives bool [H, W].
        keypoints: Its keypoints, where the model finds such.
        classes: What the classifier says of it that was asked (`classify_with`), best first; else empty.
    """

    x_min: float
    y_min: float
    x_max: float
    y_max: float
    score: float
    class_id: int
    label: str
    mask: RleMask | None = None
    keypoints: tuple[Keypoint, ...] = ()
    classes: tuple[ClassScore, ...] = ()

    def __repr__(self) -> str:
        box = ", ".join(f"{edge:.1f}" for edge in self.box)
        best = f", {self.classes[0].label} {self.classes[0].score:.2f}" if self.classes else ""
        mask = ", with mask" if self.mask is not None else ""
        points = f", {len(self.keypoints)} keypoints" if self.keypoints else ""
        return f"<Detection {self.label} {self.score:.2f}{best} in ({box}){mask}{points}>"

    @property
    def box(self) -> tuple[float, float, float, float]:
        """(x_min, y_min, x_max, y_max), as `Image.crop` takes it."""
        return (self.x_min, self.y_min, self.x_max, self.y_max)

    @property
    def width(self) -> float:
        """Width of the box in pixels."""
        return self.x_max - self.x_min

    @property
    def height(self) -> float:
        """Height of the box in pixels."""
        return self.y_max - self.y_min

    @property
    def area(self) -> float:
        """Area of the box in square pixels."""
        return self.width * self.height

    def to_dict(self) -> dict[str, Any]:
        """The fields as values that JSON knows."""
        return {
            "x_min": self.x_min,
            "y_min": self.y_min,
            "x_max": self.x_max,
            "y_max": self.y_max,
            "score": self.score,
            "class_id": self.class_id,
            "label": self.label,
            **({"mask": self.mask.to_dict()} if self.mask is not None else {}),
            **({"keypoints": [asdict(point) for point in self.keypoints]} if self.keypoints else {}),
            **({"classes": [entry.to_dict() for entry in self.classes]} if self.classes else {}),
        }


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Detections(Sequence[Detection]):
    """The objects found in one image: a sequence of `Detection`, and the same as read-only arrays.

    Two of them are equal only if they are the same object; compare their `to_dict()`.

    Attributes:
        boxes: float32 [D, 4], x_min, y_min, x_max, y_max in the original image's pixels.
        scores: float32 [D], in [0, 1], descending.
        class_ids: int32 [D], counted from 0.
        labels: The classes' names, D of them.
        image_width: Width in pixels of the image as a person sees it, which is the frame of the boxes.
        image_height: Its height.
        model: The model that answered.
        version: Its version.
        timing: Where the time went.
        masks: Which pixels show each, where masks were asked for; else empty.
        keypoints: The keypoints of each, where the model finds such; else empty.
        classes: What the classifier says of each that was asked (`classify_with`), best first; empty where none was.
            One may have no classes: `min_score` left none, or its box no pixel.
        classifier: The classifier that was asked. Empty where none was.
        classifier_version: Its version, 0 where none was asked.
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int32]
    labels: tuple[str, ...]
    image_width: int
    image_height: int
    model: str
    version: int
    timing: Timing
    masks: tuple[RleMask, ...] = ()
    keypoints: tuple[tuple[Keypoint, ...], ...] = ()
    classes: tuple[tuple[ClassScore, ...], ...] = ()
    classifier: str = ""
    classifier_version: int = 0

    def __post_init__(self) -> None:
        for array in (self.boxes, self.scores, self.class_ids):
            array.flags.writeable = False

    def __len__(self) -> int:
        return len(self.labels)

    @overload
    def __getitem__(self, index: int) -> Detection: ...

    @overload
    def __getitem__(self, index: slice) -> "Detections": ...

    def __getitem__(self, index: int | slice) -> "Detection | Detections":
        if isinstance(index, slice):
            return self._take(index, range(len(self))[index])
        x_min, y_min, x_max, y_max = self.boxes[index].tolist()
        return Detection(
            x_min,
            y_min,
            x_max,
            y_max,
            score=float(self.scores[index]),
            class_id=int(self.class_ids[index]),
            label=self.labels[index],
            mask=self.masks[index] if self.masks else None,
            keypoints=self.keypoints[index] if self.keypoints else (),
            classes=self.classes[index] if self.classes else (),
        )

    def __iter__(self) -> Iterator[Detection]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{label} {score:.2f}" for label, score in zip(self.labels[:3], self.scores[:3], strict=True)
        )
        more = f", {len(self) - 3} more" if len(self) > 3 else ""
        return (
            f"<Detections {len(self)} in {self.image_width}x{self.image_height}: {shown or 'none'}{more}; "
            f"{provenance(self.model, self.version, self.timing)}>"
        )

    def filter(
        self, *, min_score: float = 0.0, labels: str | Sequence[str] | None = None, min_area: float = 0.0
    ) -> "Detections":
        """The detections that fulfil every condition.

        Args:
            min_score: At least this confidence.
            labels: One of these classes, by name.
            min_area: At least this many square pixels.
        """
        wanted = {labels} if isinstance(labels, str) else set(labels) if labels is not None else None
        x_min, y_min, x_max, y_max = self.boxes.T
        keep = (self.scores >= min_score) & ((x_max - x_min) * (y_max - y_min) >= min_area)
        if wanted is not None:
            keep &= np.array([label in wanted for label in self.labels], dtype=np.bool_)
        kept = np.flatnonzero(keep)
        return self._take(kept, kept.tolist())

    def decode_masks(self) -> npt.NDArray[np.bool_]:
        """The masks as bool [D, H, W], in the frame of the image; [0, H, W] where there are none.

        Of many objects in a large image that is a lot: D * H * W bytes. `masks[index].decode()` is one of them.
        """
        decoded = np.zeros((len(self.masks), self.image_height, self.image_width), np.bool_)
        for mask, into in zip(self.masks, decoded, strict=True):
            into[:] = mask.decode()
        return decoded

    def keypoint_array(self) -> npt.NDArray[np.float32]:
        """The keypoints as float32 [D, P, 3], x, y and score of each; [0, 0, 3] where there are none."""
        points = [[(point.x, point.y, point.score) for point in points] for points in self.keypoints]
        return np.array(points, np.float32) if points else np.zeros((0, 0, 3), np.float32)

    def to_supervision(self) -> "supervision.Detections":
        """The same as the supervision package's Detections: boxes, confidences, class ids, masks where there are any.

        Its `data` has the labels as "class_name" and, where there are keypoints, "keypoints", float32 [D, P, 3], x, y
        and score of each.

        Raises:
            ImportError: It is not installed (`retinue-client[supervision]`).
        """
        return supervision_detections(
            self.boxes,
            self.class_ids,
            self.labels,
            scores=self.scores,
            masks=self.decode_masks() if self.masks else None,
            data={"keypoints": self.keypoint_array()} if self.keypoints else None,
        )

    def to_dict(self) -> dict[str, Any]:
        """The result as values that JSON knows."""
        return {
            "model": self.model,
            "version": self.version,
            **(
                {"classifier": self.classifier, "classifier_version": self.classifier_version}
                if self.classifier
                else {}
            ),
            "image_width": self.image_width,
            "image_height": self.image_height,
            "detections": [detection.to_dict() for detection in self],
            "timing": self.timing.to_dict(),
        }

    def draw(self, image: ImageSource) -> Image.Image:
        """Paints the image (RGB, upright) with boxes and labels, and masks and keypoints where there are any.

        An image of another size than the one that was asked about is painted with all of it scaled to it. Of more than
        5,000 detections only so many are painted, the surest.

        Raises:
            ImageError: The image cannot be read.
        """
        if len(self) > _MOST_DRAWN:
            return self[:_MOST_DRAWN].draw(image)
        picture = open_upright(image)
        scale = np.array([picture.width / self.image_width, picture.height / self.image_height] * 2)
        masks = (mask.decode() for mask in self.masks)
        shown = draw_masks(picture, masks, self.class_ids) if self.masks else picture
        keypoints = [
            np.array([(point.x, point.y) for point in points]).reshape(-1, 2) * scale[:2]
            for points in self.keypoints
        ]
        return draw_detections(shown, self.boxes * scale, self.class_ids, self.labels, self.scores, keypoints)

    def _take(self, index: slice | npt.NDArray[np.intp], indices: Sequence[int]) -> "Detections":
        return Detections(
            boxes=self.boxes[index],
            scores=self.scores[index],
            class_ids=self.class_ids[index],
            labels=tuple(self.labels[index] for index in indices),
            image_width=self.image_width,
            image_height=self.image_height,
            model=self.model,
            version=self.version,
            timing=self.timing,
            masks=tuple(self.masks[index] for index in indices) if self.masks else (),
            keypoints=tuple(self.keypoints[index] for index in indices) if self.keypoints else (),
            classes=tuple(self.classes[index] for index in indices) if self.classes else (),
            classifier=self.classifier,
            classifier_version=self.classifier_version,
        )
