"""The images of every scenario: real photos as 500x375 JPEGs, as large as ImageNet's are on average."""

from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import skimage
import sklearn.datasets
from PIL import Image

_SIZE = (500, 375)
_QUALITY = 90


def jpegs() -> list[bytes]:
    """Six photos of scikit-image and scikit-learn, cropped to 4:3, 500x375 pixels, JPEG quality 90."""
    samples = Path(skimage.__file__).parent / "data"
    more = Path(sklearn.datasets.__file__).parent / "images"
    names = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
    paths = [*(samples / name for name in names), more / "china.jpg", more / "flower.jpg"]
    return [_jpeg(path) for path in paths]


def jpeg() -> bytes:
    """The one of them whose size is nearest to the average, for clients that send one thing only."""
    photos = jpegs()
    average = sum(map(len, photos)) / len(photos)
    return min(photos, key=lambda photo: abs(len(photo) - average))


def png(side: int) -> bytes:
    """Its centre, small and grey, as a PNG.

    Args:
        side: Rows and columns.
    """
    buffer = BytesIO()
    Image.fromarray(pixels(side, grey=True)[:, :, 0]).save(buffer, "PNG")
    return buffer.getvalue()


def pixels(side: int, *, grey: bool) -> npt.NDArray[np.uint8]:
    """Its centre as pixels.

    Args:
        side: Rows and columns.
        grey: Whether to have one channel instead of red, green, blue.

    Returns:
        uint8 [side,side,1 or 3].
    """
    with Image.open(BytesIO(jpeg())) as photo:
        left = (photo.width - photo.height) // 2
        square = photo.convert("L" if grey else "RGB").resize(
            (side, side), box=(left, 0, left + photo.height, photo.height)
        )
    return np.asarray(square, np.uint8).reshape(side, side, 1 if grey else 3)


def _jpeg(path: Path) -> bytes:
    with Image.open(path) as photo:
        width, height = photo.size
        kept_width, kept_height = min(width, height * 4 // 3), min(height, width * 3 // 4)
        left, top = (width - kept_width) // 2, (height - kept_height) // 2
        crop = photo.convert("RGB").resize(_SIZE, box=(left, top, left + kept_width, top + kept_height))
    buffer = BytesIO()
    crop.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
