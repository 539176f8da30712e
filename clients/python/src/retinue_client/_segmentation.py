"""What `segment` answers."""

import base64
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from retinue_client._draw import draw_segmentation
from retinue_client._images import ImageSource, open_upright
from retinue_client._masks import class_map_from_png, class_map_from_raw, mask_from_rle
from retinue_client._supervision import supervision_detections
from retinue_client._timing import Timing, provenance

if TYPE_CHECKING:
    import supervision

MaskFormat: TypeAlias = Literal["png", "coco_rle", "raw"]
"""How the class map travels: a greyscale PNG, a COCO run-length mask for each class, or the class ids."""

MaskSize: TypeAlias = Literal["original", "model"]
"""The size of the class map: the original image's, or the model's own, in the frame of its input."""

# Names under which data sets and models speak of pixels that belong to no object.
_BACKGROUND_LABELS = frozenset({"background", "__background__", "_background_", "bg", "void", "unlabeled"})


@dataclass(frozen=True, slots=True)
class ClassArea:
    """How much of a class map one class covers.

    Attributes:
        class_id: The class, counted from 0.
        label: The class's name.
        area_pixels: Pixels of the class map.
    """

    class_id: int
    label: str
    area_pixels: int

    @property
    def is_background(self) -> bool:
        """Whether the class's name says that its pixels belong to no object."""
        return self.label.strip().lower() in _BACKGROUND_LABELS

    def to_dict(self) -> dict[str, Any]:
        """The fields as values that JSON knows."""
        return {"class_id": self.class_id, "label": self.label, "area_pixels": self.area_pixels}


def first_coloured_class(areas: Iterable[ClassArea]) -> int:
    """The class that has the palette's first colour: 1 where class 0 is background, else 0.

    So a label has one colour in the pictures of a segmenter and of a detector, whose classes begin with an object's.
    """
    return int(any(area.class_id == 0 and area.is_background for area in areas))


@dataclass(frozen=True, slots=True, repr=False)
class RleMask:
    """The pixels of one class as pycocotools reads them: `{"size": [height, width], "counts": counts}`.

    Attributes:
        class_id: The class, counted from 0.
        label: The class's name.
        counts: COCO's compressed run lengths, down the columns, beginning with zeros.
        height: Rows of the class map.
        width: Columns of the class map.
    """

    class_id: int
    label: str
    counts: bytes
    height: int
    width: int

    def __repr__(self) -> str:
        return f"<RleMask {self.label} in {self.width}x{self.height}>"

    def decode(self) -> npt.NDArray[np.bool_]:
        """The mask as bool [height, width]."""
        return mask_from_rle(self.counts, self.height, self.width)

    def to_dict(self) -> dict[str, Any]:
        """The mask as values that JSON knows; `size` and `counts` are COCO's."""
        return {
            "class_id": self.class_id,
            "label": self.label,
            "size": [self.height, self.width],
            "counts": self.counts.decode("ascii"),
        }


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Segmentation:
    """The class of each pixel of one image.

    Two of them are equal only if they are the same object; compare their `class_map`.

    Attributes:
        width: Columns of the class map.
        height: Rows of the class map.
        areas: How much each class covers, largest first; absent classes are left out.
        mask_format: How the class map travelled.
        mask_size: In which frame it is.
        encoded: The class map as it came: a PNG file or raw class ids. Empty for "coco_rle".
        rle_masks: One mask for each class but the background, by ascending class id. Empty but for
            "coco_rle".
        model: The model that answered.
        version: Its version.
        timing: Where the time went.
    """

    width: int
    height: int
    areas: tuple[ClassArea, ...]
    mask_format: MaskFormat
    mask_size: MaskSize
    encoded: bytes
    rle_masks: tuple[RleMask, ...]
    model: str
    version: int
    timing: Timing
    _decoded: list[npt.NDArray[Any]] = field(default_factory=list, init=False)

    @property
    def class_map(self) -> npt.NDArray[Any]:
        """The class id of each pixel, read-only [height, width], decoded when first asked for.

        uint8, or uint16 for models of more than 256 classes. int32 with -1 where a pixel has no class, which
        happens only in the format "coco_rle", for a model without background that was asked for some of its
        classes.

        Raises:
            ResponseError: What came cannot be decoded.
        """
        if not self._decoded:
            decoded = self._decode()
            decoded.flags.writeable = False
            self._decoded.append(decoded)
        return self._decoded[0]

    def mask(self, class_: int | str) -> npt.NDArray[np.bool_]:
        """Where one class is, by id or name: bool [height, width], all False where the class is absent.

        A name that several classes share means all of them.
        """
        ids = [
            area.class_id
            for area in self.areas
            if (area.label if isinstance(class_, str) else area.class_id) == class_
        ]
        if not ids:
            return np.zeros((self.height, self.width), dtype=np.bool_)
        return np.isin(self.class_map, ids)

    def __iter__(self) -> Iterator[ClassArea]:
        return iter(self.areas)

    def __len__(self) -> int:
        return len(self.areas)

    def __repr__(self) -> str:
        pixels = max(1, self.width * self.height)
        shown = ", ".join(f"{area.label} {area.area_pixels / pixels:.0%}" for area in self.areas[:4])
        more = f", {len(self.areas) - 4} more" if len(self.areas) > 4 else ""
        return (
            f"<Segmentation {self.width}x{self.height}: {shown or 'empty'}{more}; "
            f"{provenance(self.model, self.version, self.timing)}>"
        )

    def to_dict(self) -> dict[str, Any]:
        """The result as values that JSON knows; the class map stays in its format, PNG and raw in base64."""
        mask: dict[str, Any] = {"format": self.mask_format, "size": self.mask_size}
        if self.mask_format == "coco_rle":
            mask["masks"] = [one.to_dict() for one in self.rle_masks]
        else:
            mask["base64"] = base64.b64encode(self.encoded).decode("ascii")
        return {
            "model": self.model,
            "version": self.version,
            "width": self.width,
            "height": self.height,
            "areas": [area.to_dict() for area in self.areas],
            "mask": mask,
            "timing": self.timing.to_dict(),
        }

    def to_supervision(self) -> "supervision.Detections":
        """The classes as the supervision package's Detections, each with its mask and the box around that.

        A class whose name says that it is background is left out. They have no confidence; `data` has the labels as
        "class_name".

        Raises:
            ImportError: It is not installed (`retinue-client[supervision]`).
            ResponseError: The class map cannot be decoded.
        """
        shown = [area for area in self.areas if not area.is_background]
        masks = np.zeros((len(shown), self.height, self.width), np.bool_)
        for area, into in zip(shown, masks, strict=True):
            np.equal(self.class_map, area.class_id, out=into)
        ids = np.array([area.class_id for area in shown], np.int32)
        return supervision_detections(None, ids, [area.label for area in shown], masks=masks)

    def to_image(self) -> Image.Image:
        """The class map as a greyscale image: the level is the class id, the highest where there is none."""
        class_map = self.class_map
        if class_map.dtype == np.int32:
            class_map = class_map.astype(np.uint8 if class_map.max(initial=0) < 255 else np.uint16)
        return Image.fromarray(class_map)

    def draw(self, image: ImageSource) -> Image.Image:
        """Paints the image (RGB, upright) with the classes as colours and a legend of their areas.

        A class whose name says that it is background is left unpainted. An image of another size than the one
        that was asked about is painted with the class map scaled to it.

        Raises:
            ImageError: The image cannot be read.
            ResponseError: The class map cannot be decoded.
            ValueError: The class map is of the size "model", which does not lie on the image.
        """
        if self.mask_size == "model":
            raise ValueError(
                "A class map of mask_size='model' is in the frame of the model's input: ask for 'original'."
            )
        pixels = max(1, self.width * self.height)
        return draw_segmentation(
            open_upright(image),
            self.class_map,
            [
                (area.class_id, area.label, area.area_pixels / pixels)
                for area in self.areas
                if not area.is_background
            ],
            first_coloured_class(self.areas),
        )

    def _decode(self) -> npt.NDArray[Any]:
        if self.mask_format == "png":
            return class_map_from_png(self.encoded, self.height, self.width)
        if self.mask_format == "raw":
            return class_map_from_raw(self.encoded, self.height, self.width)
        masked = {mask.class_id for mask in self.rle_masks}
        # The background is the one class that has an area and no mask.
        background = [area.class_id for area in self.areas if area.class_id not in masked]
        covered = sum(area.area_pixels for area in self.areas) == self.width * self.height
        if covered and len(background) <= 1:
            largest = max([area.class_id for area in self.areas] + [*masked], default=0)
            class_map = np.full(
                (self.height, self.width),
                (background or [0])[0],
                dtype=np.uint8 if largest < 256 else np.uint16,
            )
        else:
            class_map = np.full((self.height, self.width), -1, dtype=np.int32)
        for mask in self.rle_masks:
            class_map[mask.decode()] = mask.class_id
        return class_map
