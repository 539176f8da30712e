"""What a network wants to be fed with."""

from dataclasses import dataclass
from enum import StrEnum

from PIL import Image


class ResizeMode(StrEnum):
    """How an image of any size is brought to the size of the input."""

    SHORTER_SIDE_CENTER_CROP = "shorter_side_center_crop"
    LETTERBOX = "letterbox"
    STRETCH = "stretch"


@dataclass(frozen=True, slots=True)
class InputSpec:
    """A network's image input: uint8 [height, width, channels], RGB or grey.

    Attributes:
        height: Rows, at least 1.
        width: Columns, at least 1.
        grey: One channel of ITU-R 601-2 luma instead of red, green, blue.
        resize_mode: The geometry.
        resample: Pillow's filter; antialiased when it shrinks, except NEAREST.
        shorter_side: For SHORTER_SIDE_CENTER_CROP: the pixels to which the shorter side is scaled before the
            crop, at least height and width.
        pad_value: For LETTERBOX: the grey level, 0 to 255, around the image.
        draft_decoding: A large JPEG may be decoded at 1/2, 1/4 or 1/8 of its size where that is still at
            least as large as the resized image. A few grey levels away from decoding in full.

    Raises:
        ValueError: A value is out of its range. Manifests are checked before, so this is a programming error.
    """

    height: int
    width: int
    grey: bool
    resize_mode: ResizeMode
    resample: Image.Resampling
    shorter_side: int = 0
    pad_value: int = 0
    draft_decoding: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be rendered."""
        if self.height < 1 or self.width < 1:
            raise ValueError(f"an input of {self.width} x {self.height} pixels")
        cropped = self.resize_mode is ResizeMode.SHORTER_SIDE_CENTER_CROP
        if cropped and self.shorter_side < max(self.height, self.width):
            raise ValueError(f"shorter_side {self.shorter_side} is less than {self.width} x {self.height}")
        if not 0 <= self.pad_value <= 255:
            raise ValueError(f"pad_value {self.pad_value} is not in 0 to 255")

    @property
    def channels(self) -> int:
        """1 or 3."""
        return 1 if self.grey else 3
